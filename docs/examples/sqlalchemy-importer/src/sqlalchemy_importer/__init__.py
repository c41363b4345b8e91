"""An importer with SQLAlchemy: `models` says what is wanted and what is there, `importer` fetches it."""
