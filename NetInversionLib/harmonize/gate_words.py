"""What the gate says of figures that are not as in the target's people."""

QUALITY_WORDS = {
    "cut face": (
        "",
        (
            "The image or its mask ends in a flat face: part of the anatomy is cut off. Use a"
            " volume or mask that covers all of it."
        ),
    ),
    "slice jump": (
        "",
        (
            "Some slices are much darker or brighter than their neighbours, or empty. Look"
            " through the slices; repeat the conversion, or leave this image out."
        ),
    ),
    "noise": (
        (
            "The image is much smoother than those of the target's people: it was blurred or"
            " denoised, or its slices are thick. Use the original image."
        ),
        (
            "The image is much noisier than those of the target's people. Expect a noisy "
            "result; measurements on it are less reliable."
        ),
    ),
    "sharpness": (
        (
            "The image is blurred compared with those of the target's people: motion, thick"
            " slices or smoothing. Use the original image."
        ),
        "",
    ),
    "stripes": (
        "",
        (
            "Regular stripes run through the image (a spike in the raw data, or interference)."
            " Have the raw data reconstructed again, or leave this image out."
        ),
    ),
    "unevenness": (
        "",
        (
            "Fine detail lies everywhere instead of at edges: noise, or ripples from motion."
            " Look for ripples along the outline; expect a poorer result."
        ),
    ),
    "repetition": (
        "",
        (
            "The image repeats itself at a distance: a ghost from motion or flow lies over the"
            " anatomy. Look for a second outline; measurements where it lies are wrong."
        ),
    ),
}
"""What a figure below and above its limits means; empty where that side is no fault."""

WHOLE_HEAD = (
    "This image seems to show the whole head: give a brain mask. If it shows the brain alone, a "
    "large part of it is cut off."
)

UNLIKE_INTENSITIES = (
    "The intensities are not distributed as the target scanner's: it may not have been possible to"
    " harmonize this image."
)

NOT_CLOSER = (
    "The change does not bring the image closer to the target scanner (distance of the intensities:"
    " {before:.3f} before, {after:.3f} after): use the image as it was, or check the mask and the"
    " contrast."
)
