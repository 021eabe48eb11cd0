"""Pinned series of the libraries whose private methods this project overrides (list: tests/modeling/test_versions.py).

Nothing here imports trl or transformers: versions come from importlib.metadata.
"""

from importlib.metadata import PackageNotFoundError, version

from vsgrpo.errors import SetupError

PINNED_SERIES = {"trl": "1.16", "transformers": "5.23"}
"""Package -> the only minor series that the overrides were written against (pyproject.toml pins the same)."""


def check_versions() -> dict[str, str]:
    """Refuse trl or transformers outside the pinned minor series.

    Returns:
        package -> installed version.

    Raises:
        SetupError: a package is missing or of another series.
    """
    installed = {}
    for package, series in PINNED_SERIES.items():
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            raise SetupError(
                f"{package} is not installed: {series}.* is needed", hint=f"pip install '{package}=={series}.*'"
            ) from None
        if installed[package].split(".")[:2] != series.split("."):
            raise SetupError(
                f"{package}={installed[package]}: vsgrpo overrides private methods of {package} {series}.* only",
                hint=f"pip install '{package}=={series}.*'",
            )
    return installed
