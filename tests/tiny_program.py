"""A program of a few points and three classes, and what tests of it share."""

import jax
import jax.numpy as jnp
import numpy as np
from controller_runs import bits
from tiny_config import get_config

from topojax.atlas.controllers import make_control
from topojax.atlas.model import make_model
from topojax.atlas.optim import groups
from topojax.data.sets import batch_indices
from topojax.step.metrics import pack
from topojax.step.program import make_program
from topojax.types import Batch

IMAGE = (3, 3, 1)
CLASSES = 3
TRAIN, BATCH = 26, 8  # 3 steps an epoch, 2 points left over
STEPS = TRAIN // BATCH
FEW = ("commitment", "entropy", "diversity", "window")
MANY = (*FEW, "route", "consistency", "separation", "chart_center_sep", "variance", "per_chart_code_entropy")
MANY += ("code_entropy", "codebook_center", "residual_scale", "disentangle", "prior_n", "prior_tex", "orbit")
MANY += ("vicreg_inv", "jump", "sup_purity", "sup_metric", "sup_temperature")
EVERYTHING = {
    "optim__update_ratio": 0.01,
    "optim__latent_speed": 0.05,
    "probe__every_steps": 7,  # of 3 a step: epochs 1, 3, 5 and so on
    "probe__size": 16,
    "geometry__margins": True,
    "revival__dead_code": 0.5,
    "revival__dead_chart": 0.3,
    "revival__every_epochs": 3,
    "gates__warmup_epochs": 2,
    "contracts__commitment__mechanism": "track",
    "contracts__route__mechanism": "track",
    "contracts__sup_temperature__gate": "none",
    "contracts__sup_temperature__target": 0.5,
}


def jit(function):
    """Compiled in little time, to slow code."""
    return jax.jit(function, compiler_options={"xla_cpu_use_fusion_emitters": False})


def config(enabled, **fields):
    c = get_config()
    c.model.codes_per_chart = 4
    c.train.batch_size, c.train.epochs = BATCH, 20
    c.optim.schedule = "cosine"
    for name, contract in c.contracts.items():
        contract.enabled = name in enabled
    c.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return c


def data(seed=0, n=TRAIN):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, n)
    image = rng.uniform(0, 0.4, (n, 9)) + 0.6 * np.eye(9)[label]
    return Batch(jnp.asarray(image, jnp.float32), jnp.asarray(label, jnp.int32))


def program(c):
    model = make_model(c.model.to_dict(), input_dim=9, num_classes=CLASSES)
    made = make_program(c, model, num_train=TRAIN, input_dim=9, num_classes=CLASSES, image_shape=IMAGE)
    return made, model


def batches(epochs, seed=0):
    """Batches in the order of the epochs' scans."""
    train = data()
    for epoch in range(epochs):
        for index in np.asarray(batch_indices(seed, epoch, TRAIN, BATCH)):
            yield Batch(train.image[index], train.label[index])


class Tiny:
    """A program compiled once for the whole file, and how often its step was traced."""

    def __init__(self):
        self.config = config(MANY, **EVERYTHING)
        self.program, self.model = program(self.config)
        self.system = make_control(self.config, num_classes=CLASSES)[0]
        self.probe = self.program.probe_of(data())
        self.traces = 0

        def counted(state, batch):
            self.traces += 1
            return self.program.train_step(state, batch, self.probe)

        self.train_step = jit(counted)
        self.epoch = jit(self.program.epoch)
        self.first = jit(self.program.init)()

    def run(self, epochs):
        """States, the first included, and metrics of every step."""
        states, metrics = [self.first], []
        for batch in batches(epochs):
            state, out = self.train_step(states[-1], batch)
            states.append(state)
            metrics.append(out)
        return states, metrics

    def named(self, metrics):
        return self.program.named(np.asarray(pack(metrics)))


def moved(before, after):
    """Groups with a leaf that is not what it was, of those that have leaves."""
    names = jax.tree.leaves(groups(before.params))
    pairs = zip(names, jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True)
    return {name for name, a, b in pairs if bits(a) != bits(b)}


def moments(state):
    """Adam's first and second moment of the codebook and the centres."""
    label = ["readout" in jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.params)]
    sizes = [leaf.size for leaf in jax.tree.leaves(state.params)]
    starts = np.cumsum([0] + [0 if readout else size for readout, size in zip(label, sizes, strict=True)])
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.params)]
    vectors = [x for x in jax.tree.leaves(state.opt_state) if x.shape == (starts[-1],)]
    out = {}
    for name in ("codebook", "centers"):
        at = next(i for i, path in enumerate(paths) if name in path)
        leaf = jax.tree.leaves(state.params)[at]
        out[name] = [np.asarray(v[starts[at] : starts[at] + leaf.size]).reshape(leaf.shape) for v in vectors]
    return out
