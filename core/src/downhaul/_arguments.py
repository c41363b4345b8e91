"""What users hand over, checked before anything is done with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ._errors import DownloadError, PluginError
from ._registry import check_plugin
from ._settings import Settings, SettingsFields

_GROUP: Final = "downhaul.plugins"
_EMPTY: Final = Settings()
_SEVERAL: Final = frozenset({tuple, list, dict, set, frozenset})


def plugins_of(plugins: Iterable[object]) -> tuple[object, ...]:
    """Return *plugins* checked, those named by a str made from their entry points; an equal one counts once."""
    if plugins == ():
        return ()
    check_several("plugins", plugins)
    made = [_plugin_named(plugin) if isinstance(plugin, str) else plugin for plugin in plugins]
    for plugin in made:
        check_plugin(plugin)
    return tuple(dict.fromkeys(made))


def settings_of(settings: Settings | None, fields: SettingsFields) -> Settings:
    """Return `Settings` from *settings* and single *fields*, which win."""
    if settings is not None and not isinstance(settings, Settings):
        raise TypeError(f"settings=… takes Settings, not {type(settings).__name__}")
    if not fields:
        return settings or _EMPTY
    if unknown := fields.keys() - SettingsFields.__annotations__.keys():
        raise TypeError(f"there is no argument, and no setting, called {', '.join(map(repr, sorted(unknown)))}")
    return Settings(**fields).filled(settings or _EMPTY)


def check_several(name: str, values: object) -> None:
    """Raise TypeError unless *values* is an iterable of things, which a str is not."""
    if type(values) in _SEVERAL:  # asking an abstract class takes its time
        return
    if isinstance(values, str):
        raise TypeError(f"{name}=… takes several: [{values!r}]")
    if not isinstance(values, Iterable):
        raise TypeError(f"{name}=… takes several, such as a list; not a single {type(values).__name__}")


def check_count(name: str, number: object) -> None:
    """Raise TypeError or ValueError unless *number* is an int from 1."""
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{name}=… is a whole number, not {number!r}")
    if number < 1:
        raise ValueError(f"{name}=… is a number from 1, not {number}")


def _plugin_named(name: str) -> object:
    from importlib.metadata import entry_points  # it costs a third of the import of downhaul

    points = entry_points(group=_GROUP, name=name)
    if not points:
        installed = ", ".join(sorted(point.name for point in entry_points(group=_GROUP))) or "none"
        raise PluginError(f"no plugin {name!r} (installed: {installed})")
    try:
        plugin = next(iter(points)).load()
        return plugin() if isinstance(plugin, type) else plugin
    except DownloadError:
        raise
    except Exception as reason:
        raise PluginError(f"plugin {name!r} cannot be loaded: {type(reason).__name__}: {reason}") from None
