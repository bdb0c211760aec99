"""PSNR and MSE against scikit-image, always on uint8 images."""

import numpy as np
import pytest
from skimage.metrics import mean_squared_error as skimage_mse
from skimage.metrics import peak_signal_noise_ratio as skimage_psnr

from tsae.metrics import mean_squared_error, psnr_db


def pairs(count: int = 6, side: int = 17) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    noise = rng.normal(0, np.linspace(0.5, 90, count)[:, None, None, None], x.shape)
    return x, np.clip(np.rint(x + noise), 0, 255).astype(np.uint8)


def test_they_agree_with_scikit_image() -> None:
    x, x_hat = pairs()
    np.testing.assert_allclose(
        mean_squared_error(x, x_hat), [skimage_mse(a, b) for a, b in zip(x, x_hat, strict=True)], rtol=1e-12
    )
    expected = [skimage_psnr(a, b, data_range=255) for a, b in zip(x, x_hat, strict=True)]  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(psnr_db(x, x_hat), expected, rtol=1e-12)


def test_each_image_has_its_own_value() -> None:
    x, x_hat = pairs()
    values = psnr_db(x, x_hat)
    assert values.shape == (6,)
    assert (np.diff(values) < 0).all()  # more noise, less PSNR
    np.testing.assert_array_equal(psnr_db(x[2:3], x_hat[2:3]), values[2:3])


def test_equal_images_have_infinite_psnr_without_a_warning() -> None:
    x, x_hat = pairs(2)
    x_hat[1] = x[1]
    with np.errstate(all="raise"):
        values = psnr_db(x, x_hat)
    assert np.isfinite(values[0])
    assert values[1] == np.inf


def test_differences_do_not_wrap_as_uint8_would() -> None:
    low, high = np.full((1, 4, 4, 3), 1, np.uint8), np.full((1, 4, 4, 3), 255, np.uint8)
    assert mean_squared_error(low, high)[0] == mean_squared_error(high, low)[0] == 254.0**2
    assert psnr_db(np.zeros_like(low), high)[0] == 0.0


@pytest.mark.parametrize("shape", [(4, 4, 3), (2, 4, 5, 3), (1, 4, 4, 3)])
def test_shapes_must_fit(shape: tuple[int, ...]) -> None:
    x = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="shapes"):
        psnr_db(x, np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="shapes"):
        psnr_db(x[0], x[0])


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.bool_])
def test_only_uint8_is_taken(dtype: type) -> None:
    x = np.zeros((1, 4, 4, 3), np.uint8)
    for a, b in ((x, x.astype(dtype)), (x.astype(dtype), x)):
        with pytest.raises(ValueError, match="uint8"):
            mean_squared_error(a, b)
