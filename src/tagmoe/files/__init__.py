"""Files of every kind: written whole, resumed after a kill, read with a clear error, found on the hub."""
