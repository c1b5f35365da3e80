"""Random views: geometry by hand, purity, and strengths that cost nothing at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topojax.data import augment

SHAPE = (5, 4, 2)
KEY = jax.random.key(0)
FULL = {"noise_std": 0.1, "rotation": 0.3, "shift": 2.0, "scale": 0.1}


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(1), (6, 5 * 4 * 2))


def _warp(image, angle=0.0, factor=1.0, shift=(0.0, 0.0)):
    """Warp one [H, W] image."""
    image = jnp.asarray(image, jnp.float32)
    out = augment.warp(
        image.reshape(1, -1),
        (*image.shape, 1),
        jnp.full(1, angle),
        jnp.full(1, factor),
        jnp.array([shift], jnp.float32),
    )
    return np.asarray(out).reshape(image.shape)


def test_zero_strengths_add_nothing(images):
    assert augment.augment(KEY, images, SHAPE) is images
    assert augment.augment(KEY, images, None, rotation=0.3, shift=1.0, scale=0.1) is images  # X = 40
    jaxpr = str(jax.make_jaxpr(lambda k, x: augment.augment(k, x, SHAPE, noise_std=0.1))(KEY, images))
    assert "gather" not in jaxpr
    assert "erf_inv" not in str(jax.make_jaxpr(lambda k, x: augment.augment(k, x, SHAPE, shift=1.0))(KEY, images))


def test_identity_warp_returns_the_image():
    image = np.arange(12.0).reshape(3, 4)
    np.testing.assert_allclose(_warp(image), image, atol=1e-6)


def test_shift_moves_down_and_right_and_fills_with_zero():
    np.testing.assert_allclose(_warp([[1, 2], [3, 4]], shift=(1.0, 0.0)), [[0, 0], [1, 2]], atol=1e-6)
    np.testing.assert_allclose(_warp([[1, 2], [3, 4]], shift=(0.0, 1.0)), [[0, 1], [0, 3]], atol=1e-6)
    # A quarter pixel: out[x] = 0.75 in[x] + 0.25 in[x - 1]; 0.75·8 = 6, 0.75·4 + 0.25·8 = 5.
    np.testing.assert_allclose(_warp([[8.0, 4.0]], shift=(0.0, 0.25)), [[6.0, 5.0]], atol=1e-6)


def test_quarter_turn_carries_right_to_down():
    image = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    # x axis → y axis: the right column (2, 5, 8) becomes the bottom row, read from the right.
    np.testing.assert_allclose(_warp(image, angle=np.pi / 2), [[6, 3, 0], [7, 4, 1], [8, 5, 2]], atol=1e-4)


def test_scale_two_samples_at_half_the_distance():
    # out(x) = in(x / 2) about the centre of 1×5: positions -1, -½, 0, ½, 1 of (0, 4, 8, 6, 2).
    # in(-½) = (4 + 8) / 2 = 6, in(½) = (8 + 6) / 2 = 7.
    np.testing.assert_allclose(_warp([[0.0, 4.0, 8.0, 6.0, 2.0]], factor=2.0), [[4, 6, 8, 7, 6]], atol=1e-5)


def test_channels_move_together(images):
    planes = images.reshape(6, 5, 4, 2)
    draw = (jnp.linspace(-0.3, 0.3, 6), jnp.linspace(0.9, 1.1, 6), jnp.ones((6, 2)) * 0.7)
    whole = augment.warp(images, SHAPE, *draw).reshape(6, 5, 4, 2)
    for c in range(2):
        alone = augment.warp(planes[..., c].reshape(6, 20), (5, 4, 1), *draw)
        np.testing.assert_array_equal(whole[..., c].reshape(6, 20), alone)


def test_points_turn_about_the_centre_of_the_square():
    # (1, ½) is ½ right of the centre; a quarter turn puts it ½ along y, 45° at ½ + ½/√2 = 0.853553 twice.
    points, angles = jnp.array([[1.0, 0.5], [1.0, 0.5]]), jnp.array([jnp.pi / 2, jnp.pi / 4])
    np.testing.assert_allclose(augment.rotate_points(points, angles), [[0.5, 1.0], [0.853553, 0.853553]], atol=1e-6)


def test_random_rotation_of_points_stays_within_its_limit():
    points = jnp.full((512, 2), 0.5) + jnp.array([[0.25, 0.0]])
    moved = np.asarray(augment.augment(KEY, points, None, rotation=0.4)) - 0.5
    angle = np.arctan2(moved[:, 1], moved[:, 0])
    np.testing.assert_allclose(np.hypot(*moved.T), 0.25, atol=1e-6)
    assert np.abs(angle).max() <= 0.4 + 1e-6
    assert angle.min() < -0.35
    assert angle.max() > 0.35
    assert abs(angle.mean()) < 4 * 0.4 / np.sqrt(3 * 512)  # four standard errors of U(-0.4, 0.4)


def test_shift_scale_and_rotation_stay_within_their_limits():
    # A dot at the centre of 9×9, shifted by at most 1: its mass and centroid tell where it went.
    dot = np.zeros((256, 9, 9), np.float32)
    dot[:, 4, 4] = 1
    out = np.asarray(augment.augment(KEY, jnp.asarray(dot.reshape(256, 81)), (9, 9, 1), shift=1.0))
    out = out.reshape(256, 9, 9)
    np.testing.assert_allclose(out.sum(axis=(1, 2)), 1, atol=1e-5)
    down = (out.sum(axis=2) * np.arange(-4, 5)[None, :]).sum(axis=1)
    right = (out.sum(axis=1) * np.arange(-4, 5)[None, :]).sum(axis=1)
    for moved in (down, right):
        assert np.abs(moved).max() <= 1 + 1e-5
        assert moved.std() == pytest.approx(1 / np.sqrt(3), rel=0.1)
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.25
    # A ramp that is 0 at the centre, enlarged by s ∈ [0.8, 1.2], has the slope 1 / s there.
    ramp = jnp.broadcast_to(jnp.arange(-4.0, 5.0)[None, :], (9, 9)).reshape(1, 81)
    scaled = augment.augment(KEY, jnp.tile(ramp, (64, 1)), (9, 9, 1), scale=0.2).reshape(64, 9, 9)
    slope = np.asarray(scaled[:, 4, 5])  # = 1 / s
    assert slope.min() >= 1 / 1.2 - 1e-5
    assert slope.max() <= 1 / 0.8 + 1e-5
    assert slope.std() > 0.05


def test_the_four_draws_of_an_example_are_uniform_and_independent(monkeypatch):
    drawn = []
    monkeypatch.setattr(augment, "warp", lambda images, shape, *draw: drawn.append(draw) or images)
    augment.augment(KEY, jnp.zeros((4000, 4)), (2, 2, 1), rotation=0.3, shift=2.0, scale=0.1)
    angle, factor, shift = (np.asarray(draw) for draw in drawn[0])
    unit = np.stack([angle / 0.3, (factor - 1) / 0.1, shift[:, 0] / 2, shift[:, 1] / 2])
    assert np.abs(unit).max() <= 1 + 1e-5
    # Of U(-1, 1): variance 1/3, and 4,000 independent draws correlate with standard error 1/√4000 = 0.016.
    np.testing.assert_allclose(np.cov(unit), np.eye(4) / 3, atol=0.03)
    np.testing.assert_allclose(np.corrcoef(unit), np.eye(4), atol=4 * 0.016)


def test_noise_has_its_standard_deviation_and_is_independent():
    noise = np.asarray(augment.augment(KEY, jnp.zeros((400, 50)), None, noise_std=0.1))
    assert noise.std() == pytest.approx(0.1, rel=0.03)
    assert abs(noise.mean()) < 0.003  # 0.1 / √20000 = 0.0007
    assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 0.5


def test_same_key_same_view_other_key_other_view(images):
    one, again = (augment.augment(KEY, images, SHAPE, **FULL) for _ in range(2))
    other = augment.augment(jax.random.key(9), images, SHAPE, **FULL)
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    assert one.dtype == images.dtype
    assert one.shape == images.shape


def test_examples_get_different_views(images):
    same = jnp.tile(images[:1], (6, 1))
    views = np.asarray(augment.augment(KEY, same, SHAPE, rotation=0.3))
    assert len(np.unique(views, axis=0)) == 6


def test_kinds_draw_independently_of_each_other(images):
    with_noise = augment.augment(KEY, images, SHAPE, **FULL)
    without = augment.augment(KEY, images, SHAPE, **{**FULL, "noise_std": 0.0})
    noise = augment.augment(KEY, images, SHAPE, noise_std=0.1)
    np.testing.assert_allclose(with_noise - without, noise - images, atol=1e-6)


def test_jit_and_vmap_agree_with_eager(images):
    def view(key):
        return augment.augment(key, images, SHAPE, **FULL)

    keys = jax.random.split(KEY, 3)
    eager = jnp.stack([view(key) for key in keys])
    np.testing.assert_allclose(jax.jit(view)(keys[0]), eager[0], atol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.vmap(view))(keys), eager, atol=1e-5)


def test_gradient_with_respect_to_the_image_is_the_transpose(images):
    # The view is linear in the image: <A x, y> = <x, Aᵀ y>.
    def view(x):
        return augment.augment(KEY, x, SHAPE, rotation=0.3, shift=1.0, scale=0.1)

    y = jax.random.normal(jax.random.key(3), images.shape)
    out, pull = jax.vjp(view, images)
    np.testing.assert_allclose(jnp.vdot(out, y), jnp.vdot(images, pull(y)[0]), rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(angle=st.floats(-3.2, 3.2), factor=st.floats(0.5, 2.0), dy=st.floats(-9, 9), dx=st.floats(-9, 9))
def test_a_warp_never_leaves_the_range_of_the_image_and_zero(angle, factor, dy, dx):
    image = np.random.default_rng(0).uniform(0.2, 0.8, (6, 7))
    out = _warp(image, angle, factor, (dy, dx))
    assert out.min() >= -1e-5
    assert out.max() <= image.max() + 1e-5


@pytest.mark.parametrize(
    "strength", [{"noise_std": -0.1}, {"rotation": float("nan")}, {"shift": float("inf")}, {"scale": 1.0}]
)
def test_bad_strengths_are_named(images, strength):
    (name, value) = next(iter(strength.items()))
    with pytest.raises(ValueError, match=f"{name} = {value}"):
        augment.augment(KEY, images, SHAPE, **strength)


def test_wrong_image_shape_is_refused(images):
    with pytest.raises(ValueError, match=r"40 numbers do not have the shape \(5, 5, 2\)"):
        augment.augment(KEY, images, (5, 5, 2), shift=1.0)
