"""Parts of `readability.py`: what is coded, by our models and by rivals, what is read of it, tables and plot."""
