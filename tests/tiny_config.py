"""A run of seconds: few digits, a small atlas, few contracts; for tests in this process and in others."""

from topojax.config.defaults import default_config

KEPT = ("commitment", "route", "entropy", "diversity", "window", "jump", "per_chart_code_entropy")


def get_config():
    c = default_config()
    c.name = "tiny"
    c.data.num_examples = 200
    c.model.hidden_dim, c.model.num_charts, c.model.codes_per_chart = 16, 4, 3
    c.model.covariant = False
    # Tests are of behaviour: what is tuned for scores is pinned, so that tuning it again moves no test.
    c.model.router_gain = c.model.key_offset = c.model.chart_gain = c.model.chart_bias = 0.0
    c.model.ball_scale = 2.0
    c.losses.recon_weight = 1.0
    # The plane of the original, whose numbers can be worked out by hand; discs have tests of their own.
    c.model.discs = c.model.bounded = False
    c.losses.told_share = 1.0
    c.augment.rotation = c.augment.shift = c.augment.scale = 0.0
    c.optim.learning_rate = c.optim.learning_rate_max = 0.01
    c.train.epochs, c.train.batch_size = 4, 32
    c.optim.schedule = "none"  # so that a longer run is the same program
    c.log.every_epochs, c.log.progress = 2, False
    c.checkpoint.every_epochs, c.checkpoint.keep = 2, 2
    for name, contract in c.contracts.items():
        contract.enabled = name in KEPT
    c.contracts.route.target = 0.051  # set, so that the data do not tell it
    c.contracts.commitment.mechanism, c.contracts.commitment.initial = "constant", 0.25
    return c
