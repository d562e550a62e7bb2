from tests.support.tiny_sources.dsb2018 import write

__all__ = ["write"]
