"""Every published or claimed number, as a command: ``python -m bench NAME``."""
