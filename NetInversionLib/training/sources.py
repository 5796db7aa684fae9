"""Where the CT of the people that a network was trained on comes from, with its licence.

The development data's people are known by name; of anybody else the card says that it does not say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

TCIA = "The Cancer Imaging Archive (Clark et al., J Digit Imaging 2013;26:1045)"
# People (as ``people.read_people`` names them), what they are called in a card, and their source.
KNOWN = (
    (
        r"pelvis|upper_abdomen",
        "pelvis, upper_abdomen",
        "TotalSegmentator CT (Wasserthal et al., Radiology: Artificial Intelligence"
        " 2023;5:e230024), Apache-2.0",
    ),
    (
        r"chest",
        "chest",
        "Lung-PET-CT-Dx (Li et al., The Cancer Imaging Archive 2020,"
        f" doi:10.7937/TCIA.2020.NNC2-0461), CC BY 4.0, via {TCIA}",
    ),
    (r"TCGA-\d\d-\w{4}", "TCGA", f"TCGA-LUAD and TCGA-LUSC, CC BY 3.0, via {TCIA}"),
    (r"A\d{6}", "A and six digits", f"COVID-19-NY-SBU, CC BY 4.0, via {TCIA}"),
    (
        r"(acrin_flt|cptac_pda|lung_fused|rider)_\d+",
        "acrin_flt, cptac_pda, lung_fused, rider",
        "ACRIN-FLT-Breast, CPTAC-PDA, Lung-Fused-CT-Pathology and RIDER Pilot, CC BY 3.0, via"
        f" {TCIA}",
    ),
)


def sources_of(people: Iterable[str], simulated: bool = True) -> str:
    """Sources and licences of these people's CT, for a card.

    Args:
        people: Who was trained on.
        simulated: Whether their low dose was simulated.
    """
    left = set(people)
    said = []
    for pattern, called, source in KNOWN:
        these = {person for person in left if re.fullmatch(pattern, person)}
        if these:
            said.append(f"{called}: {source}.")
        left -= these
    if left:
        said.append(f"CT of {len(left)} more, given by who trained: where it is from was not said.")
    if simulated:
        said.append("Low dose is simulated from these CTs.")
    return " ".join(said)
