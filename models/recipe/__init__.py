"""Makes the models that jouled ships: data, training, int8 quantization, checks.

Run it from the folder above with ``python -m recipe``.
"""
