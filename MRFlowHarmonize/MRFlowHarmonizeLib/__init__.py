"""Parts of the module MRFlow Harmonize."""
