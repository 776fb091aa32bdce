"""Files: atomic writes, folders whose writing resumes after a kill, JSON with clear errors, models from the hub."""
