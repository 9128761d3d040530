"""What a picture says of itself, as XMP: that a model made it, which weights, and its seed.

Says only what every worker and every retry would say alike; how a file carries it is encode.py's.
"""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from services.chassis.painting import Settled

#: IPTC's word for media that a trained model made (cv.iptc.org/newscodes/digitalsourcetype).
MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
#: Of Looksmith's own properties. A change of their meaning earns another number.
NAMESPACE = "urn:looksmith:picture:1:"


def xmp_packet(settled: Settled, image: int) -> bytes:
    """The XMP packet of one picture of a request, in UTF-8.

    Prompt, brand, worker, time and request id are left out: the first two are their owners' to tell, and the others
    would give a retry other bytes.

    Args:
        settled: what is painted.
        image: index of the picture.
    """
    told = {
        "Iptc4xmpExt:DigitalSourceType": MADE_BY_A_MODEL,
        "looksmith:Base": settled.recipe.base_digest,
        "looksmith:Recipe": settled.recipe.digest,
        "looksmith:Seed": str(settled.image_seed(image)),
    }
    properties = "".join(f" {name}={quoteattr(value)}" for name, value in told.items())
    digests = "".join(f"<rdf:li>{escape(adapter.digest)}</rdf:li>" for adapter in settled.adapters)
    adapters = f"<looksmith:Adapters><rdf:Seq>{digests}</rdf:Seq></looksmith:Adapters>" if digests else ""
    # The wrapper's id is the same in every XMP packet (ISO 16684-1, 7.3.2); "r": nobody is to write into it.
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f' xmlns:looksmith="{NAMESPACE}"{properties}>{adapters}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
        '<?xpacket end="r"?>'
    ).encode()
