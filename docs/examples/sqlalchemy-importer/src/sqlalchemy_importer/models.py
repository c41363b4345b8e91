"""What is wanted, and what is there."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """The models of the importer."""


class Artifact(Base):
    """A file that is there, complete and validated; made of `Result.artifact_attributes`."""

    __tablename__ = "artifact"

    id: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str]
    size: Mapped[int]
    sha256: Mapped[str] = mapped_column(index=True)
    sha512: Mapped[str]


class RemoteFile(Base):
    """A file that is wanted: where it is, what is known of it, and what became of it."""

    __tablename__ = "remote_file"

    id: Mapped[int] = mapped_column(primary_key=True)
    url: Mapped[str] = mapped_column(unique=True)
    size: Mapped[int | None]
    sha256: Mapped[str | None]
    artifact_id: Mapped[int | None] = mapped_column(ForeignKey("artifact.id"), index=True)
    failure: Mapped[str | None]
    artifact: Mapped[Artifact | None] = relationship()
