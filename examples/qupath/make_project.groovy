// A QuPath project of rendered slides: each NAME.ome.tif of a folder with the nuclei of its
// NAME.geojson, in FOLDER/project. Written for QuPath 0.5.
//
//     QuPath script --args FOLDER make_project.groovy
//
// or in the script editor, with the folder's path in place of args[0] below.

import java.awt.image.BufferedImage

import qupath.lib.images.ImageData
import qupath.lib.images.servers.ImageServerProvider
import qupath.lib.io.PathIO
import qupath.lib.objects.classes.PathClass
import qupath.lib.projects.Projects

def folder = new File(args[0]).canonicalFile
def slides = folder.listFiles().findAll { it.name.endsWith('.ome.tif') }.sort()
def place = new File(folder, 'project')
if (!slides)
    throw new IOException("${folder} holds no NAME.ome.tif: name the folder of the slides")
if (!place.mkdir())
    throw new IOException("${place} exists or cannot be made: move it away")

def project = Projects.createProject(place, BufferedImage)
project.setPathClasses([
    Neutrophil: [255, 165, 0], Epithelial: [0, 200, 0], Lymphocyte: [220, 20, 60],
    Plasma: [0, 190, 255], Eosinophil: [30, 60, 255], Connective: [255, 215, 0],
].collect { name, rgb ->
    def nucleus = PathClass.fromString(name)
    nucleus.setColor(*rgb)
    nucleus
})

slides.each { slide ->
    def name = slide.name - '.ome.tif'
    def nuclei = new File(folder, "${name}.geojson")
    def server = ImageServerProvider.buildServer(slide.path, BufferedImage)
    def entry = project.addImage(server.builder)
    entry.imageName = slide.name
    def data = entry.readImageData()
    data.imageType = ImageData.ImageType.BRIGHTFIELD_H_E
    if (nuclei.exists())
        data.hierarchy.addObjects(PathIO.readObjects(nuclei))
    entry.saveImageData(data)
    println "${slide.name}: ${data.hierarchy.detectionObjects.size()} nuclei"
}
project.syncChanges()
