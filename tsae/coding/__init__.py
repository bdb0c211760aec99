"""How each architecture turns images into streams and back: `seed` in floating point, `learned` in integers."""
