"""Parts of `rate_distortion.py` and `compressai_baseline.py`: coders, measures, curves, reports."""
