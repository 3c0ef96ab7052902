// Scans each slide into a map of its own:
//
//   nextflow run heatmap.nf --slides 'slides/*.svs' --maps maps
//
// `beside` are files that a slide needs next to it, such as the folder of an MRXS; [] for the others.

params.slides = 'slides/*.svs'
params.maps = 'maps'

process HEATMAP {
    tag "${meta.id}"
    cpus 4
    memory 4.GB
    errorStrategy { task.exitStatus in [130, 137, 143] ? 'retry' : 'finish' }
    maxRetries 2
    publishDir params.maps, mode: 'copy'

    input:
    tuple val(meta), path(slide), path(beside)

    output:
    tuple val(meta), path("${meta.id}.zarr"), emit: map

    script:
    """
    slidescan heatmap '${slide}' --out '${meta.id}.zarr' --threads ${task.cpus} --quiet
    """
}

workflow {
    slides = channel.fromPath(params.slides)
        .map { slide ->
            def folder = slide.resolveSibling(slide.baseName)
            [[id: slide.baseName], slide, slide.extension == 'mrxs' ? folder : []]
        }
    HEATMAP(slides)
}
