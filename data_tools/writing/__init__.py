"""Writers that the converters share: COCO files, data cards, output folders."""
