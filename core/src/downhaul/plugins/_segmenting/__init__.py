"""One large file from several sources at the same time."""
