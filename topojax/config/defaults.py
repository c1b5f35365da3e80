"""Every field of a run with its meaning, unit and default; configs/*.py override these, nothing copies them."""

import dataclasses

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from topojax.atlas.hierarchy import GROUPS
from topojax.atlas.table import TABLE, Contract


def default_config() -> ConfigDict:
    """The documented defaults: the digits of scikit-learn, 8×8, offline, labels used."""
    c = ConfigDict()
    # Name of the run; with no --workdir it trains into runs/<name>.
    c.name = "digits"
    # Seed of initialisation, data order, splits and augmentation.
    c.seed = 0
    # Workdir of another run whose parameters this one begins with, where they fit; unset: begins anew.
    c.init_from = placeholder(str)
    # With it, controllers that are fresh, or kept as that run's.
    c.init_control = "fresh"

    c.data = ConfigDict()
    # digits, mnist, cifar10, or a manifold: swiss_roll_2d, circles_2d, moons_2d, swiss_roll_3d, sphere_3d, moons_3d,
    # torus_3d, moebius_3d, klein_4d, projective_plane_4d; or your own: a path (.npz .npy .csv .tsv .jsonl .parquet
    # .h5ad .zip, a folder of images, of IDX files or of Hugging Face), an address of such a file, or any name that tfds
    # has prepared. docs/your-own-data.md has examples.
    c.data.name = "digits"
    # Seeded subset of the training pool; unset: all of it.
    c.data.num_examples = placeholder(int)
    # Directory of data sets prepared by tfds; unset: tfds' own default.
    c.data.data_dir = placeholder(str)
    # Fraction of the (sub)set held out as test data; unset: the official test split, 0.2 where there is none.
    c.data.test_fraction = placeholder(float)
    # Noise on manifold points: standard deviation as a fraction of the extent along each axis.
    c.data.noise = 0.05
    # Nearest training examples (by inputs, no label) of which one, drawn anew each time, takes the place of an example
    # in the view that orbit and vicreg_inv compare with; 0 is none: the view is of the example itself. Left at 0 where
    # pairs make the charts (losses.orbit_distance), it is told by the training examples (data.auto).
    c.data.neighbours = 0
    # Own data: key or column of the labels, `none` for none; unset: label, labels, y, target, class or classes.
    c.data.label = placeholder(str)
    # Own data: the columns to learn from, separated by commas; unset: all others.
    c.data.columns = placeholder(str)
    # Own data: examples with empty cells or NaN: refuse, drop (leave them out) or mean (of the training split).
    c.data.missing = "refuse"
    # Own data: what images are resized to, pixels: a side, or height x width as 64x48; unset: they must agree.
    c.data.resize = placeholder(str)
    # Own data: shape of an example, as 28x28 or 3x32x32, `none` for no image; unset: found out.
    c.data.shape = placeholder(str)
    # Own data: found, brought to [0, 1] by what the training split holds; or none, taken as they are, in [0, 1].
    c.data.scale = "found"
    # Let what is found in the data set the views and the ball, and of own data charts, batch size and the like, where
    # these stand at their defaults.
    c.data.auto = True
    # Where the training split lies: memory (on the device), host (as it was given, bytes or a mapped file of them, and
    # handed over chunk by chunk), stream (in its files, read and shuffled by grain, of the extra `stream`), or auto:
    # memory where it takes a quarter of the device's memory at most, else host.
    c.data.mode = "auto"
    # Keep decoded tfds arrays in the user's cache, so that only the first run needs TensorFlow.
    c.data.cache = True

    # Random transforms of the training inputs.
    c.augment = ConfigDict()
    # Rotation up to ± this, radians.
    c.augment.rotation = 0.0
    # Shift up to ± this many pixels along each axis.
    c.augment.shift = 0.0
    # Relative scale up to ± this.
    c.augment.scale = 0.0
    # Standard deviation of Gaussian pixel noise.
    c.augment.noise_std = 0.0

    c.model = ConfigDict()
    # Hidden width H.
    c.model.hidden_dim = 64
    # Latent dimension D.
    c.model.latent_dim = 2
    # Charts N, at least 2.
    c.model.num_charts = 10
    # Codes in each chart K.
    c.model.codes_per_chart = 8
    # Covariant attention router; off: dot products with the chart centres.
    c.model.covariant = True
    # Christoffel term of the router's query: sum (low rank) or full.
    c.model.tensorization = "sum"
    # Rank of the Christoffel term `sum`.
    c.model.rank = 8
    # Rotate the router's keys by the Cayley transport.
    c.model.transport = True
    # Initial value of a learned factor on both routers' scores; 0 is none, the original: sharp at the rim alone.
    c.model.router_gain = 10.0
    # Standard deviation of a free part of the encoder's chart keys; 0 is none, the original: keys of rank latent_dim.
    c.model.key_offset = 0.125
    # Initial value of a learned factor on the decoder's chart projections; 0 is none, the original.
    c.model.chart_gain = 5.0
    # Standard deviation of the offsets of the chart projections; 0 is none, the original.
    c.model.chart_bias = 0.3
    # Initial bias of the norm gates: 1 starts near-linear, 0 is the original (a plateau of hundreds of epochs).
    c.model.gate_bias_init = 1.0
    # Standard deviation of the initial chart centres.
    c.model.center_scale = 0.3
    # Standard deviation of the initial codes.
    c.model.code_scale = 0.05
    # Bound the latent to the ball of radius 0.98, where the router's temperature is meant to live.
    c.model.ball = True
    # Scale of the value projection before the ball; where data.auto is on and this stands at its default, 2 over the
    # standard deviation of the training inputs along their first principal axis.
    c.model.ball_scale = 1.5
    # detached: reconstruction trains centres and router; parity: the original, in which it does not.
    c.model.straight_through = "detached"
    # Each chart in a disc of its own, an example with a place in each, all of its residual kept and no texture; off,
    # the original: one plane for all charts.
    c.model.discs = True
    # Readout within the data's range [0, 1] and 2 % beyond; off, the original: linear, without bound.
    c.model.bounded = True
    # Initial value of a learned factor on what a bounded readout is given.
    c.model.readout_gain = 4.0
    # Rank of the jump operators; 0 is latent_dim.
    c.model.jump_rank = 0
    # Initial preference of chart k for class k mod C in the supervised table.
    c.model.class_affinity = 4.0
    # Type that operands of the large products are rounded to: float32, or bfloat16, faster on accelerators. Sums,
    # routing, norms, entropies and controllers are float32 in either case.
    c.model.matmul = "float32"
    # What stands before the encoder's first layer: flat (nothing), conv (two convolutions), or rotation (the same with
    # kernels in `rotations` orientations, pooled to features that do not change when the picture turns by one of them).
    c.model.frontend = "flat"
    # What draws the picture from the decoder's last layer: flat (one linear map) or conv (convolutions).
    c.model.renderer = "flat"
    # Channels of those convolutions.
    c.model.channels = 8
    # Orientations of the front end `rotation`.
    c.model.rotations = 8
    # Distance by which a point finds its code: euclid, or soft_equivariant, learned with the rest.
    c.model.metric = "euclid"
    # Coordinates in each bundle of the learned distance; 0 is all in one.
    c.model.metric_bundle = 0
    # Channels per norm in the detached readout; 0 is all.
    c.model.readout_bundle = 0

    # What the atlas is compared with, trained in the same step on the same batches: no label, no control.
    c.baselines = ConfigDict()
    # A plain autoencoder X-h-h-D-h-h-X; h matches its parameters to those of the atlas's encoder and decoder.
    c.baselines.autoencoder = False
    # The same with one codebook at its bottleneck.
    c.baselines.vq = False
    # Codes in that codebook.
    c.baselines.codes = 64
    # Weight β of its commitment.
    c.baselines.commitment = 0.25
    # Their Adam's rate; it falls as optim.schedule does. The governor, its caps and the group rates leave it alone.
    # On MNIST's 3,000, after 200 epochs, both err less at 0.004 (0.0397, 0.0441) than at 0.001 (0.0420, 0.0469).
    c.baselines.learning_rate = 0.004

    c.train = ConfigDict()
    # Passes over the training data, at most.
    c.train.epochs = 200
    # When a run ends: settled, where `ending` says that twice as many epochs would gain too little, or epochs: all.
    c.train.until = "settled"
    # Examples per step; the last, incomplete batch of an epoch is dropped.
    c.train.batch_size = 128
    # Batches that make up one update, where all its examples do not fit at a time: gradients are averaged over them and
    # contracts measured of all of them together.
    c.train.accumulate = 1
    # Keep compiled programs in the user's cache, so that the next start is quick.
    c.train.compilation_cache = True

    # Devices that share a run, of one process or of several, or a population, in rows.
    c.mesh = ConfigDict()
    # Over how many of them the examples of a batch are spread, those of all processes together; it must divide
    # train.batch_size. Of a population: of each member's batch.
    c.mesh.data = 1
    # Over how many of them the members of a population are spread, each of mesh.data devices; it must divide the
    # members. 0: over as many as there are and divide them.
    c.mesh.members = 0
    # Processes that train the run together, each with as many of its devices; it must divide mesh.data.
    c.mesh.processes = 1
    # Which of them this is, from 0; the only field that differs between them. Process 0 writes the run's files.
    c.mesh.process = 0
    # host:port at which process 0 is reached by the others.
    c.mesh.coordinator = placeholder(str)

    c.optim = ConfigDict()
    # Rate before the governor's first decision: a guess.
    c.optim.learning_rate = 1e-3
    # Hard upper bound of the governor's rate.
    c.optim.learning_rate_max = 1.0
    # Hard lower bound.
    c.optim.learning_rate_min = 1e-8
    # governor: controlled; constant: learning_rate throughout; or another rule: reduce_on_plateau, greedy_lr, prodigy,
    # schedule_free (the last two want schedule none, update_ratio and latent_speed 0).
    c.optim.rate = "governor"
    # What brings the rate down: ending (the end of the run, as `ending` has it), cosine (a cap, from learning_rate_max
    # to 1 % of it over train.epochs), or none.
    c.optim.schedule = "ending"
    # Epochs over which the cosine cap rises linearly at the start.
    c.optim.warmup_epochs = 1
    # Largest ‖Δθ‖/‖θ‖ of one step, on the update that Adam really makes; 0 is no cap.
    c.optim.update_ratio = 0.006
    # Largest mean distance that a probe point may move in one update, in λ_wfr (its metric's units); 0 is no cap.
    c.optim.latent_speed = 0.2
    # Share of the rate of each parameter group (readout: heads).
    c.optim.group_rates = ConfigDict(dict.fromkeys(GROUPS, 1.0))
    # reduce_on_plateau: factor on the rate.
    c.optim.plateau_factor = 0.5
    # reduce_on_plateau: epochs without a better loss before it.
    c.optim.plateau_patience = 10
    # Gradient clipping by global norm (atlas and readout apart, so that no label reaches the atlas through it); 0 is
    # none: Adam's direction is the same for gradients of any scale, and the caps bound what it does.
    c.optim.grad_clip = 0.0
    # Decay per step of Adam's first moment.
    c.optim.b1 = 0.9
    # Decay per step of Adam's second moment.
    c.optim.b2 = 0.95
    # The average of the parameters that evaluation reads weighs step s by s to this power, so that its mean age is a
    # share of the run, whatever its length; 0 is none (schedule_free has its own).
    c.optim.average = 16.0
    # Added to the root of Adam's second moment.
    c.optim.eps = 1e-8

    # The end of a run (topojax/control/ending.py).
    c.ending = ConfigDict()
    # What twice as many epochs must gain at least, log of the error and nats of labels; at 0, anything.
    c.ending.least_gain = 0.0
    # Length of the rate's fall at the end, in the epochs before it.
    c.ending.share = 0.5
    # What is left of the rate at the end.
    c.ending.floor = 0.01

    c.governor = ConfigDict()
    # What it watches for spikes and plateaus: task (unweighted losses over the epoch) or lyapunov (V_L on the probe).
    c.governor.signal = "task"
    # Factor on the rate, each epoch while stable.
    c.governor.grow = 1.05
    # Factor on the rate on trouble.
    c.governor.shrink = 0.5
    # Factor on the rate, each epoch while healthy but far below the maximum.
    c.governor.recover = 10.0
    # Fraction of learning_rate_max, and of what the caps allow, below which a healthy run recovers.
    c.governor.recovery_threshold = 0.5
    # Epochs of health before growing.
    c.governor.stable_patience = 1
    # Epochs of trouble before shrinking.
    c.governor.unstable_patience = 3
    # Relative rise of the loss over its average that counts as a spike.
    c.governor.spike_tolerance = 0.2
    # Decay per epoch of the average of the loss.
    c.governor.loss_decay = 0.9
    # Decay per epoch of the average of I(X;K).
    c.governor.grounding_decay = 0.5
    # Epochs in which lost grounding does not cut the rate; everything else stays live.
    c.governor.grounding_warmup = 0
    # Epochs without a new best before the rate is cut; 0 is never.
    c.governor.plateau_patience = 0
    # Relative improvement that makes a new best.
    c.governor.plateau_tolerance = 1e-3
    # Cuts in a row that one loss of grounding or one barrier may cause.
    c.governor.freeze_limit = 5

    c.supervised = ConfigDict()
    # Train the atlas's charts with labels. Off, labels reach only the detached readout.
    c.supervised.enabled = True
    # Class temperature T of P(y|k); where contracts.sup_temperature is on, its weight is log of a factor on this.
    c.supervised.temperature = 1.0

    c.precision = ConfigDict()
    # Weigh reconstruction, quantisation and route by learned precisions instead of 1.
    c.precision.enabled = False

    c.losses = ConfigDict()
    # Weight of the reconstruction: of the log of its error, or of the error, as `likelihood` says.
    c.losses.recon_weight = 1.0
    # profile: the log of the mean squared error, as of a Gaussian at its own best variance; fixed: the error itself.
    c.losses.likelihood = "profile"
    # Share of a batch that is reconstructed by the encoder's routing, each chart at the example's place in it; the rest
    # is decoded by the decoder's own, from the place in the strongest chart alone. One plane for all: no effect.
    c.losses.told_share = 0.5
    # Decode that rest from the place in the chart of a second view (of a neighbour, with data.neighbours) instead:
    # charts then draw what lies beyond their border, too, and agree there. Needs contracts.orbit or vicreg_inv.
    c.losses.glue = False
    # Hinged losses aim this fraction beyond their contract: a hinge has no gradient at its edge.
    c.losses.hinge_margin = 0.1
    # Distance at which soft centres stop repelling, latent units.
    c.losses.separation_margin = 0.5
    # Distance at which centre parameters stop repelling, latent units.
    c.losses.center_margin = 0.5
    # Margin of the supervised metric: in router overlap, or in latent units where the distance is latent.
    c.losses.metric_margin = 1.0
    # What keeps classes apart: overlap of their routing (the original), or latent distance (theory 1.10).
    c.losses.metric_distance = "overlap"
    # What orbit measures: kl, the symmetric divergence of the two routings (the original), or overlap, −log⟨w, w_aug⟩,
    # the surprise of finding both in one chart, which sharpens charts while it makes them agree.
    c.losses.orbit_distance = "kl"
    # Power of the window's hinge: 1 pushes as hard at its edge as anywhere, 2 is the original.
    c.losses.window_power = 1
    # Bound H(K) from above as well, as the coupling-window theorem has it (theory 1.3).
    c.losses.window_two_sided = False
    # Target standard deviation per dimension of the structured residual (prior_n), latent units.
    c.losses.prior_std_n = 0.15
    # Target standard deviation per dimension of the texture (prior_tex), latent units.
    c.losses.prior_std_tex = 0.05
    # Softness of the code assignment that carries code entropy's gradient, relative to the mean squared distance.
    c.losses.code_temperature = 0.3
    # Jump targets detached, and the way i → j → i added; off, the original, for which z_n → 0 is the trivial minimum.
    c.losses.jump_cycle = True
    # Steps between gradients of the contract orthogonality, which then count as many times: it takes singular values.
    c.losses.orthogonality_every = 16
    # Weight of Σ|M|, of the mixing of bundles in a learned distance (model.metric).
    c.losses.metric_l1 = 0.01
    # The original's disentanglement, Cov(w, ‖z_geo‖), instead of Cov(w, z_n) and Cov(w, z_tex).
    c.losses.disentangle_parity = False

    # The view x_aug that orbit and vicreg_inv compare with; where data.auto is on and these stand at their defaults, as
    # far as the nearest neighbours of the training examples lie (topojax/data/measured.py).
    c.view = ConfigDict()
    # Rotation up to ± this, radians.
    c.view.rotation = 0.3
    # Shift up to ± this many pixels along each axis.
    c.view.shift = 1.0
    # Relative scale up to ± this.
    c.view.scale = 0.0
    # Standard deviation of Gaussian pixel noise.
    c.view.noise_std = 0.05

    c.window = ConfigDict()
    # ε of the coupling window: target (contracts.window's), or capacity: from the boundary capacity (theory 1.7),
    # max(floor · log N, fraction · the 0.9 quantile of I(X;K) over the horizon), never falling.
    c.window.ground = "target"
    # capacity: that fraction.
    c.window.capacity_fraction = 0.25
    # capacity: that floor, of log N.
    c.window.capacity_floor = 0.05
    # capacity: that horizon, epochs.
    c.window.capacity_horizon = 20
    # Where decisions read I(X;K) and H(K): epoch (mean over batches), usage (decayed average) or probe (its batch).
    c.window.estimate = "epoch"

    # Targets of contracts whose target_rule is `warmup`: ratio × the signal's average over the warm-up.
    c.targets = ConfigDict()
    # Epochs of the warm-up.
    c.targets.warmup_epochs = 10
    # Decay per epoch of that average.
    c.targets.warmup_decay = 0.9
    # Least target that comes out, in the signal's unit.
    c.targets.warmup_minimum = 1e-3

    # The fixed batch on which V_L, latent speed, drift and geometry are measured.
    c.probe = ConfigDict()
    # Training examples in it, at most.
    c.probe.size = 512
    # Steps between probes, rounded to whole epochs.
    c.probe.every_steps = 50

    c.geometry = ConfigDict()
    # Latent metric behind λ_wfr = √(tr G⁻¹ / D): precision, router_fisher, pullback or poincare.
    c.geometry.metric = "precision"
    # Margins of separation and centres (and of a latent sup_metric) are λ_wfr instead of losses.*_margin.
    c.geometry.margins = True
    # λ_wfr before it is measured, latent units.
    c.geometry.initial_length = 0.5
    # Measurements of λ_wfr averaged, from the opening of the window on; then it stays.
    c.geometry.calibrations = 4
    # Decay per measurement of the average while calibrating.
    c.geometry.decay = 0.5

    # BarrierTypeII: drift of latent (δ), decoder (γ) and routing (β) against the signal (α), per update (theory 1.4).
    c.hierarchy = ConfigDict()
    # What a broken order does to the group that breaks it: warn, rate (its rate × shrink) or freeze (rate 0).
    c.hierarchy.action = "rate"
    # Largest healthy δ/γ.
    c.hierarchy.delta_gamma = 200.0
    # Largest healthy γ/α.
    c.hierarchy.gamma_alpha = 0.5
    # Width of the dead band, relative.
    c.hierarchy.margin = 0.2
    # Decay per probe of the averaged scales.
    c.hierarchy.decay = 0.5
    # Factor on a group's share of the rate at each probe behind the barrier.
    c.hierarchy.shrink = 0.5
    # Factor on it at each probe after the barrier, up to 1.
    c.hierarchy.recover = 1.25
    # Least share.
    c.hierarchy.minimum = 0.0625
    # Probes in a row that one barrier may cut or freeze.
    c.hierarchy.freeze_limit = 5

    # Dead codes and charts take over half of the most scattered one; usage is counted between revivals.
    c.revival = ConfigDict()
    # A code is dead below this fraction of its chart's mean code usage; 0 revives none.
    c.revival.dead_code = 0.0
    # A chart is dead below this fraction of the mean chart usage; 0 revives none.
    c.revival.dead_chart = 0.0
    # Epochs between revivals, of at most one chart, and one code a chart.
    c.revival.every_epochs = 5

    # When contracts begin.
    c.gates = ConfigDict()
    # Epochs of reconstruction and quantisation before the rows behind gate `warmup` begin.
    c.gates.warmup_epochs = 0
    # Epochs that I(X;K) ≥ ε must have held, stable, before jump and invariances may start.
    c.gates.hold_epochs = 5
    # Relative change of I(X;K) between epochs up to which it is stable.
    c.gates.stability = 0.1
    # Epochs of the linear ramp to their full weight; a lost window holds it.
    c.gates.ramp_epochs = 20

    c.monitor = ConfigDict()
    # Decay per step of the counts behind code-usage entropies.
    c.monitor.usage_decay = 0.99
    # Over-mixing: H(K) above (1 − this) log N while I(X;K) is low.
    c.monitor.over_mixing_high = 0.1
    # Over-mixing: I(X;K) below this · log N while H(K) is high.
    c.monitor.over_mixing_low = 0.1
    # Epochs at the maximum and violated before a contract is reported as unsatisfied.
    c.monitor.saturation_patience = 10
    # What then happens: warn, freeze (the rate may not grow) or halt (save, say so, stop).
    c.monitor.on_saturation = "warn"
    # Steps in a row that are not finite, and skipped, after which a run goes back to its last good state.
    c.monitor.max_failures = 50
    # Times that it may go back, each at a lower rate, before it stops; a checkpoint past the failure starts anew.
    c.monitor.max_rollbacks = 3

    c.checkpoint = ConfigDict()
    # Epochs between checkpoints; the last epoch is always saved.
    c.checkpoint.every_epochs = 10
    # Steps between checkpoints within an epoch, where examples come from the host (data.mode); 0 is none. They are
    # saved between the chunks (32 MiB of examples) of an epoch: never in an epoch of one.
    c.checkpoint.every_steps = 0
    # Checkpoints kept, beside the best (least training loss).
    c.checkpoint.keep = 3

    # Many runs that differ in numbers alone, as one program; each member's run is in workdir/member_000 and on.
    c.population = ConfigDict()
    # Members; 0: as many as sweep makes, and an ordinary run without one. Without a sweep their seeds count from seed.
    c.population.size = 0
    # What differs: "seed=0..15; optim.learning_rate=1e-3,4e-3; governor.grow=1.01..1.2:4" is all combinations of 16
    # seeds, 2 rates and 4 factors evenly spaced in logarithm. `topojax fields` says which fields can be swept.
    c.population.sweep = ""
    # Members that are computed at a time, where memory is short; 0: all.
    c.population.chunk = 0
    # Metric that is least in the best member.
    c.population.best = "signal/task"
    # Epochs between two exploits: the worst quarter takes the states of the best quarter, and its swept numbers times
    # 0.8 or 1.25, within the sweep's range (population-based training); 0: members never learn from each other.
    c.population.exploit_every_epochs = 0

    # Epoch to trace into <workdir>/profile; its perfetto_trace.json.gz opens in ui.perfetto.dev. 0 traces none.
    c.profile = 0

    # Stop at the first step that is not finite, and name the operation behind it; every epoch waits for the host.
    c.debug = False

    c.log = ConfigDict()
    # Epochs between log lines and evaluations.
    c.log.every_epochs = 5
    # TensorBoard event files (extra `tf`).
    c.log.tensorboard = False
    # Progress bar on the terminal.
    c.log.progress = True

    # MLflow (extra `mlflow`): metrics, parameters, events as tags, files at the end; a resumed run goes on.
    c.mlflow = ConfigDict()
    # Log there.
    c.mlflow.enabled = False
    # A server (http://…) or a file (sqlite:///…); unset: $MLFLOW_TRACKING_URI, else mlflow.db in the workdir.
    c.mlflow.tracking_uri = placeholder(str)
    # Experiment, made if missing.
    c.mlflow.experiment = "topojax"
    # Name of the run there; unset: `name`.
    c.mlflow.run_name = placeholder(str)

    # One block for each contract of topojax/atlas/table.py, with the fields a run may change.
    c.contracts = ConfigDict({row.name: {f: getattr(row, f) for f in CONTRACT_FIELDS} for row in TABLE})
    return c


CONTRACT_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(Contract)
    if field.name not in ("name", "signal", "relation", "wants_labels", "advice", "follows", "shape")
)

RESUMABLE = (
    "name",
    "mesh",
    "train.epochs",
    "train.until",
    "train.compilation_cache",
    "checkpoint",
    "log",
    "mlflow",
    "profile",
    "monitor.on_saturation",
    "monitor.max_rollbacks",
    "population.chunk",
    "population.best",
    "debug",
    "data.data_dir",
    "data.cache",
    "data.mode",
)
"""Fields (or blocks) that may differ when a workdir is resumed: they change no number of the run's past."""


def get_config() -> ConfigDict:
    """The default, for --config flags that name no file."""
    return default_config()
