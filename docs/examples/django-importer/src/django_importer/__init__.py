"""An importer with Django models: `models` says what is wanted and what is there, `importer` fetches it."""
