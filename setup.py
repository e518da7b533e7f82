"""Puts experiments/ into the wheel as transformer_jax.experiments, and the files of pages."""

from setuptools import find_packages, setup

EXPERIMENTS = "transformer_jax.experiments"
setup(
    packages=[*find_packages(include=["transformer_jax*"]), EXPERIMENTS],
    package_dir={EXPERIMENTS: "experiments"},
    package_data={
        "transformer_jax": ["py.typed"],
        "transformer_jax.report": ["*.html"],
        "transformer_jax.inside": ["page/*.html", "page/*.css", "page/*.js"],
    },
)
