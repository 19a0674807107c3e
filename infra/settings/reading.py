"""Settings read once, and every way in which they cannot be, told in one line."""

from __future__ import annotations

import os
import tomllib

from pydantic_settings import SettingsError

from infra.settings.variables import CONFIG, PREFIX, misspelt, settings_file
from infra.settings.whole import Settings
from serving.errors import UserError


def load_settings() -> Settings:
    """Read the settings; raises pydantic.ValidationError, which the command line turns into one line each.

    Raises UserError for a file or a variable that cannot be read at all, for a variable that names no setting, and for
    a home that is no folder.
    """
    file = settings_file()
    if file.is_dir() or (CONFIG in os.environ and not file.exists()):
        raise UserError(f"there is no settings file {file}; {CONFIG} names it", exit_code=2)
    _refuse_misspelt()
    try:
        settings = Settings()
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file} is not TOML: {error}", exit_code=2) from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not TOML: its text is not UTF-8", exit_code=2) from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}", exit_code=2) from None
    except SettingsError as error:
        field = str(error).split('"')[1]
        raise UserError(
            f"setting {field}: a variable {PREFIX}{field.upper()}... holds no JSON, which lists and tables are "
            """written in, such as '["a", "b"]'""",
            exit_code=2,
        ) from None
    if settings.home.exists() and not settings.home.is_dir():
        raise UserError(f"cannot write below {settings.home}: it is no folder: set HEADFRAME_HOME to one you may write")
    return settings


def _refuse_misspelt() -> None:
    found = misspelt(Settings, os.environ)
    if found:
        names = ", ".join(f"{name} (the nearest is {near})" if near else name for name, near in found.items())
        raise UserError(f"there is no setting {names}: docs/settings.md lists them all", exit_code=2)
