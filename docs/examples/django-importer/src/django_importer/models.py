"""What is wanted, and what is there."""

from __future__ import annotations

from django.db import models


class Artifact(models.Model):
    """A file that is there, complete and validated; made of `Result.artifact_attributes`."""

    path = models.TextField()
    size = models.PositiveBigIntegerField()
    sha256 = models.CharField(max_length=64, db_index=True)
    sha512 = models.CharField(max_length=128)


class RemoteFile(models.Model):
    """A file that is wanted: where it is, what is known of it, and what became of it."""

    url = models.TextField(unique=True)
    size = models.PositiveBigIntegerField(null=True)
    sha256 = models.CharField(max_length=64, blank=True)
    artifact = models.ForeignKey(Artifact, models.PROTECT, null=True)
    failure = models.TextField(blank=True)
