"""PSNR, MSE and SSIM against scikit-image, always on uint8 images; brightness and sharpness by hand."""

import numpy as np
import pytest
from skimage.metrics import mean_squared_error as skimage_mse
from skimage.metrics import peak_signal_noise_ratio as skimage_psnr
from skimage.metrics import structural_similarity

from tsae.metrics import laplacian_variance, mean_luma, mean_squared_error, psnr_db, ssim


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


def test_ssim_is_scikit_images_with_the_papers_window() -> None:
    for side in (32, 17):
        x, x_hat = pairs(side=side)
        expected = [
            structural_similarity(  # type: ignore[no-untyped-call]
                a, b, channel_axis=-1, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            )
            for a, b in zip(x, x_hat, strict=True)
        ]
        np.testing.assert_allclose(ssim(x, x_hat), expected, rtol=1e-9)


def test_ssim_worked_by_hand() -> None:
    flat, other = np.full((1, 16, 16, 3), 100, np.uint8), np.full((1, 16, 16, 3), 110, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(flat, other)[0] == pytest.approx((2 * 100 * 110 + c1) / (100**2 + 110**2 + c1))
    x, _ = pairs(300)  # more than one batch
    np.testing.assert_allclose(ssim(x, x), 1.0)


def test_ssim_needs_room_for_its_window_and_may_have_no_images() -> None:
    small = np.zeros((1, 10, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="11x11 are needed"):
        ssim(small, small)
    with pytest.raises(ValueError, match="uint8"):
        ssim(np.zeros((1, 32, 32, 3)), np.zeros((1, 32, 32, 3)))  # type: ignore[arg-type]
    assert ssim(np.empty((0, 32, 32, 3), np.uint8), np.empty((0, 32, 32, 3), np.uint8)).shape == (0,)


def test_brightness_and_sharpness_worked_by_hand() -> None:
    x = np.zeros((2, 4, 5, 3), np.uint8)
    x[0, :, :, 1] = 200
    x[1, 1, 2] = 30
    np.testing.assert_allclose(mean_luma(x), [0.587 * 200, 30 / 20])
    laplacian = np.array([30, -120, 30, 0, 30, 0])  # rows 1 and 2, columns 1 to 3
    np.testing.assert_allclose(laplacian_variance(x), [0, laplacian.var()], atol=1e-3)
