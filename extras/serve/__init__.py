"""Detection over HTTP: what serve.py starts."""
