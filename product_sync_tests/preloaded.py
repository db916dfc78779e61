"""Imports what `product-sync` needs, without starting a thread: a process that is forked then has only its own."""

from importlib import import_module
from pkgutil import walk_packages

import product_sync
from product_sync.runtime.process import stay_small

#: They are executed, or change the process.
_LEFT_OUT = ("product_sync.cli", "product_sync.definitions", "product_sync.embedded")

stay_small()
for module in walk_packages(product_sync.__path__, "product_sync."):
    if not module.name.startswith(_LEFT_OUT):
        import_module(module.name)
