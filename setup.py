"""Lists the packages; everything else stands in pyproject.toml.

``kernels/``, ``cli/`` and ``specs/`` lie at the root of the repository and are imported as
``kdgraph.kernels``, ``kdgraph.cli`` and ``kdgraph.specs``. setuptools' own discovery does not
look into mapped folders, so the list is computed here.
"""

from setuptools import find_packages, setup

MAPPED = {f"kdgraph.{folder}": folder for folder in ("kernels", "cli", "specs")}

# The links kdgraph/kernels, kdgraph/cli and kdgraph/specs lead to the same files again.
linked = [pattern for name in MAPPED for pattern in (name, f"{name}.*")]
packages = find_packages(include=["kdgraph", "kdgraph.*"], exclude=linked)
for name, folder in MAPPED.items():
    packages += [name, *(f"{name}.{inner}" for inner in find_packages(folder))]

setup(packages=packages, package_dir=MAPPED)
