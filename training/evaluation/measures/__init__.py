"""What is measured on drawn pictures, one file for each kind of measure."""
