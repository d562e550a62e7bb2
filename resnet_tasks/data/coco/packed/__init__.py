"""Images and annotations of a COCO file as columns of numbers, in place of Python objects.

A million small objects cost gigabytes, and every loader process soon has a copy of its own, for
reading an object changes its reference count. Columns are a few large buffers that are only read:
processes share them, in memory or in a mapped file (`coco.cache`). A record is made when it is
asked for.

P images, N annotations, R polygons. Texts lie behind one another as UTF-8, with P + 1 or N + 1
`starts`; a column of ids is int64, or such texts of JSON where not all are whole numbers.
"""
