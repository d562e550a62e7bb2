from pathlib import Path

from tests.support.tiny_sources import image, text

XML = """<annotation><filename>{name}.jpg</filename>
<size><width>96</width><height>64</height><depth>3</depth></size>
<object><name>RBC</name><difficult>0</difficult>
<bndbox><xmin>4</xmin><ymin>6</ymin><xmax>40</xmax><ymax>44</ymax></bndbox></object>
<object><name>Platelets</name><difficult>0</difficult>
<bndbox><xmin>60</xmin><ymin>20</ymin><xmax>76</xmax><ymax>38</ymax></bndbox></object>
</annotation>"""


def write(folder: Path) -> Path:
    for split, names in {"train": ("a", "b"), "val": ("c",)}.items():
        for seed, name in enumerate(names):
            image(folder / f"JPEGImages/{name}.jpg", seed=seed)
            text(folder / f"Annotations/{name}.xml", XML.format(name=name))
        text(folder / f"ImageSets/Main/{split}.txt", "\n".join(names))
    return folder
