"""Annotations: nuclei, their types, the file formats, and planes of pixels made from them.

A file's nuclei pass these modules in this order; each imports from those before it only:

    types       names, colours and aliases of nucleus types, names of planes
    findings    the classes of one file, and what was left out
    columns     polygons as flat arrays
    plausible   nuclei or regions, and whether size and place can be right
    contours    contours traced by OpenCV
    outlines    outlines in, checked, repaired and packed
    features    GeoJSON features: what they say, and how nuclei become some
    nuclei      `Nuclei`, the table that all other packages use
    dense       labels as dense numbers
    parsers     parsers of others, in a process of their own
    jsonstream  bytes to JSON
    contents    what a format is, and what reading a file gives
    xmlstream   XML, element by element
    geojson, labels, lizard, ...    one file each for the formats
    unread      files that are named and not read
    formats     the registry of formats, `read_contents`
    raster      `Conditioning`: planes, tissue and labels of any box
"""
