"""Annotations: nuclei, their types, the file formats, and planes of pixels made from them.

The modules are listed in the order in which they process a file; each imports only earlier ones:

    types       names, colours and aliases of nucleus types, names of planes
    classes     class names of files, and what they mean
    findings    the classes of one file, and what was left out
    columns     polygons as flat arrays
    regions     names, colours and aliases of tissue regions, `Regions`
    plausible   nuclei or regions, and whether size and place can be right
    contours    contours traced by OpenCV
    outlines    outlines in, checked, repaired and packed
    features    GeoJSON features: reading and writing them
    nuclei      `Nuclei`, the table that all other packages use
    dense       labels as dense numbers
    parsers     parsers of other libraries, in a separate process
    jsonstream  JSON, member by member
    contents    the description of a format, and the result of reading a file
    xmlstream   XML, element by element
    geojson, labels, lizard, ...    one module for each format
    unread      files that are recognised and refused
    formats     the registry of formats, `read_contents`
    canvas      whether a canvas can be made, and what lies on it
    raster      `Conditioning`: planes, tissue and labels of any box
"""
