"""Images and annotations of a COCO file as columns of numbers instead of Python objects.

A million small objects take gigabytes, and every loader process soon has its own copy, because
reading an object changes its reference count. Columns are a few large read-only buffers, which
processes share in memory or through a mapped file (`coco.cache`). Records are created on request.
Training and the evaluation of results files read the same columns.

A file has P images, N annotations and R polygons. Strings are concatenated as UTF-8, with P + 1 or
N + 1 `starts`. A column of ids is int64, or JSON strings if not all ids are integers.
"""
