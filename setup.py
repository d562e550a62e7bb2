"""Packages of the distribution; everything else is declared in pyproject.toml.

The folder `recipes` is mapped into the package: a top-level `recipes` in site-packages would shadow
a folder of that name in a user's project.
"""

from setuptools import find_namespace_packages, setup

RECIPES = "resnet_tasks.shipped_recipes"

setup(
    packages=[
        *find_namespace_packages(
            include=["resnet_tasks", "resnet_tasks.*", "data_tools", "data_tools.*"]
        ),
        RECIPES,
        *(f"{RECIPES}.{folder}" for folder in find_namespace_packages("recipes")),
    ],
    package_dir={RECIPES: "recipes"},
)
