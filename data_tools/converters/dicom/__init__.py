"""DICOM files, series and multi-frame files."""
