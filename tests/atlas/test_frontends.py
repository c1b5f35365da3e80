"""Front ends: what turns with the picture and what does not, sizes that do not fit, and a decoder that paints."""

import functools

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from topojax.atlas.model import make_model
from topojax.atlas.model.frontends import GroupConvolution, Rotations, frontend, ring_masks, turned_basis
from topojax.atlas.model.layers import perturb

SHAPE = (28, 28, 1)


@functools.cache
def front_end(rotations, shape=SHAPE):
    """(features of pictures, module) with random parameters."""
    module = Rotations(shape, 4, rotations)
    variables = module.init(jax.random.key(0), jnp.zeros((1, int(np.prod(shape)))))
    params, _ = perturb(jax.random.key(1), variables["params"], variables["spread"], variables["spectral"])
    return jax.jit(lambda x: module.apply({"params": params}, x))


def blobs(shape=SHAPE, n=6, seed=0):
    """Smooth pictures that vanish at the rim, so that turning them loses nothing: [n, H, W, C]."""
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    images = scipy.ndimage.gaussian_filter(rng.normal(size=(n, height, width, channels)), (0, 2.0, 2.0, 0))
    y, x = np.mgrid[:height, :width]
    window = np.clip(1.2 - np.hypot(y - (height - 1) / 2, x - (width - 1) / 2) / (height / 2 - 3), 0, 1)
    return (images * window[None, :, :, None] * 5).astype(np.float32)


def turned(images, degrees):
    return scipy.ndimage.rotate(images, degrees, axes=(1, 2), reshape=False, order=3).astype(np.float32)


def flat(images):
    return images.reshape(len(images), -1)


def change(features, other):
    return np.linalg.norm(other - features) / np.linalg.norm(features)


@pytest.mark.parametrize("rotations", [4, 8])
@pytest.mark.parametrize("shape", [(28, 28, 1), (16, 16, 3)])
def test_a_quarter_turn_changes_no_feature(rotations, shape):
    features, images = front_end(rotations, shape), blobs(shape)
    for quarters in (1, 2, 3):
        other = features(flat(np.rot90(images, quarters, axes=(1, 2))))
        assert change(features(flat(images)), other) < 1e-5
    assert change(features(flat(images)), features(flat(images[::-1]))) > 0.3  # other pictures are others


@pytest.mark.parametrize(("rotations", "kept"), [(2, (2,)), (3, ()), (6, (2,)), (12, (1, 2, 3))])
def test_a_quarter_that_is_no_turn_of_the_group_is_seen(rotations, kept):
    """Nothing changes by what is a multiple of 90° and of 360°/n; by other quarters something does."""
    features, images = front_end(rotations), blobs()
    for quarters in (1, 2, 3):
        off = change(features(flat(images)), features(flat(np.rot90(images, quarters, axes=(1, 2)))))
        assert off < 1e-5 if quarters in kept else off > 0.01


@pytest.mark.parametrize("kind", ["conv", "rotation"])
def test_features_are_at_first_as_long_as_is_asked_for(kind):
    """However many there are: the scale of the latent is measured on pictures, not on features."""
    shape, norm = (16, 16, 1), 30.0
    module = frontend(kind, shape, 4, 4, 1.0, norm)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 256)))
    params, _ = perturb(jax.random.key(1), variables["params"], variables["spread"], variables["spectral"])
    features = jax.jit(lambda x: module.apply({"params": params}, x))(flat(blobs(shape)))
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), norm, rtol=0.02)


def test_a_turn_of_the_group_changes_little_and_less_than_one_between():
    """45° is in C_8, not in C_4; 22.5° is in neither. Pixels on a square are the rest."""
    images = blobs()
    by = {
        n: [change(front_end(n)(flat(images)), front_end(n)(flat(turned(images, a)))) for a in (22.5, 45)]
        for n in (4, 8)
    }
    assert by[8][1] < 0.06
    assert by[8][1] < by[4][1]
    assert by[8][0] < 0.1


def test_orientations_of_a_layer_turn_with_the_picture():
    """A quarter turn of the picture turns the map and shifts its orientations by a quarter of their number."""
    n, images = 8, blobs()
    module = GroupConvolution(3, 5, n, 1)
    variables = module.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    params, _ = perturb(jax.random.key(2), variables["params"], variables["spread"], variables["spectral"])

    def layer(x):
        out = np.asarray(module.apply({"params": params}, x))
        return out.reshape(*out.shape[:3], 3, n)

    expected = np.roll(np.rot90(layer(images), 1, axes=(1, 2)), n // 4, axis=-1)
    np.testing.assert_allclose(layer(np.ascontiguousarray(np.rot90(images, 1, axes=(1, 2)))), expected, atol=1e-5)


def test_the_basis_turns_and_rings_cover_the_square_once():
    basis = turned_basis(5, 8)
    np.testing.assert_allclose(basis[2], np.rot90(basis[0], 1, axes=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(basis, axis=(2, 3)), 1, rtol=1e-5)
    masks = ring_masks(9) > 0
    np.testing.assert_array_equal(masks.sum(axis=0), 1)
    np.testing.assert_array_equal(masks, np.rot90(masks, axes=(1, 2)))


def atlas(inputs=784, shape=SHAPE, **fields):
    config = {
        **golden_files.MODEL,
        "hidden_dim": 16,
        "num_charts": 3,
        "codes_per_chart": 4,
        "channels": 4,
        "rotations": 4,
    }
    model = make_model(config | fields, input_dim=inputs, num_classes=10, image_shape=shape)
    params, vectors = jax.jit(model.init)(jax.random.key(0))
    return model, params, vectors


@pytest.mark.slow
def test_an_atlas_with_the_front_end_routes_turned_pictures_alike():
    model, params, vectors = atlas(frontend="rotation", discs=True, ball=True)
    images = blobs()
    encode = jax.jit(lambda x: model.encode(model.normalise(params, vectors)[0], x))
    a, b = (encode(flat(np.rot90(images, k, axes=(1, 2)))) for k in (0, 1))
    np.testing.assert_allclose(a.router, b.router, atol=1e-4)
    np.testing.assert_allclose(a.z_geo, b.z_geo, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [{"frontend": "conv", "renderer": "conv", "ball": True}, {"renderer": "conv", "discs": True, "bounded": True}],
)
def test_pictures_come_back_with_their_shape_and_every_kernel_learns(fields):
    model, params, vectors = atlas(3072, (32, 32, 3), **fields)
    x = flat(blobs((32, 32, 3))) * 0.1 + 0.5

    def loss(params):
        weights, _ = model.normalise(params, vectors)
        e = model.encode(weights, x)
        return jnp.mean((model.decode(weights, e.z_geo, e.z_tex).x_hat - x) ** 2)

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    for part, name in (("encoder", "frontend"), ("decoder", "painter")):
        for leaf in jax.tree.leaves(grads[part].get(name, {})):
            assert np.abs(leaf).max() > 0


@pytest.mark.slow
def test_each_kernel_of_a_front_end_is_kept_at_a_spectral_norm_of_one():
    model, params, vectors = atlas(frontend="conv", renderer="conv")
    big = jax.tree.map(lambda leaf: 10 * leaf, params)
    normalise = jax.jit(model.normalise)
    for _ in range(20):
        weights, vectors = normalise(big, vectors)
    for layer in ("conv_0", "conv_1"):
        norm = np.linalg.norm(weights["encoder"]["frontend"][layer]["kernel"], ord=2)
        assert norm == pytest.approx(1, rel=1e-2)


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        (None, {"frontend": "rotation"}, "needs pictures, and the data are none"),
        ((4, 4, 1), {"frontend": "conv"}, "needs pictures of 8 × 8 pixels or more, the data have 4 × 4"),
        ((28, 24, 1), {"frontend": "rotation"}, "square"),
        ((28, 28, 1), {"frontend": "conv", "channels": 6}, "multiple of 4"),
        ((30, 30, 1), {"renderer": "conv"}, "divisible by 4"),
        (None, {"renderer": "conv"}, "needs pictures, and the data are none"),
        ((28, 28, 1), {"metric_bundle": 3}, "must divide"),
    ],
)
def test_what_does_not_fit_is_refused(shape, fields, message):
    with pytest.raises(ValueError, match=message):
        make_model({**golden_files.MODEL, **fields}, input_dim=784, num_classes=10, image_shape=shape)


@pytest.mark.parametrize("side", [8, 9, 11, 12])
def test_the_smallest_pictures_have_features(side):
    module = frontend("conv", (side, side, 1), 8, 8, 1.0)
    x = jax.random.uniform(jax.random.key(0), (3, side * side))
    features = module.init_with_output(jax.random.key(1), x)[0]
    assert features.shape[0] == 3
    assert features.shape[1] >= 16
    assert np.isfinite(features).all()


def test_more_rotations_than_pixels_are_refused():
    with pytest.raises(ValueError, match=r"model\.rotations = 1000000: at most 64"):
        frontend("rotation", (8, 8, 1), 8, 1_000_000, 1.0)
