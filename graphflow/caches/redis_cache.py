"""The name by which programs written for asimov import the cache."""

from graphflow.store.cache import RedisCache as RedisCache
