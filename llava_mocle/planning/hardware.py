"""What a GPU can do, from the vendor's data sheets; none of it was measured here.

Sources: NVIDIA's data sheets and product pages of the A100, H100, H200, HGX B200, L40S, A40, A10, RTX A6000 and GeForce
RTX 4090 (memory, dense BF16 tensor throughput with FP32 accumulation: half of a figure that is given "with sparsity";
bandwidth of the memory and of NVLink), and of DGX A100 (eight 200 Gbit/s adapters) and DGX H100 / H200 / B200 (eight of
400 Gbit/s).
"""

from dataclasses import dataclass

from llava_mocle.errors import ConfigError

GIB = 2**30
GB = 10**9


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: what `--gpu` takes.
        memory: bytes, by the data sheet, less the sixteenth that ECC takes on the L40S, A40 and A10; a running
            process sees about 1 % less.
        flops: dense BF16 tensor operations a second.
        bandwidth: bytes a second of its memory.
        link: bytes a second and direction between GPUs of one node: NVLink, or PCIe 4.0 x16 where there is none.
        network: bytes a second and direction between nodes, for each GPU of the node.
    """

    name: str
    memory: int
    flops: float
    bandwidth: float
    link: float
    network: float

    @property
    def balance(self) -> float:
        """Tokens of a micro-batch at which reading a 16-bit weight takes as long as multiplying by it, both at peak.

        A weight has 2 bytes, and takes 2 operations a token. Below this, the memory is what a GPU waits for.
        """
        return self.flops / self.bandwidth


# Where the vendor sells no system with adapters of its own, 100 Gbit/s for every eight GPUs is assumed.
_PLAIN_NETWORK = 12.5 * GB / 8
_PCIE = 32 * GB

GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40", 40 * GIB, 312e12, 1555 * GB, 300 * GB, 25 * GB),
        Gpu("a100-80", 80 * GIB, 312e12, 2039 * GB, 300 * GB, 25 * GB),
        Gpu("h100", 80 * GIB, 989e12, 3350 * GB, 450 * GB, 50 * GB),
        Gpu("h200", 141 * GIB, 989e12, 4800 * GB, 450 * GB, 50 * GB),
        Gpu("b200", 180 * GIB, 2250e12, 7700 * GB, 900 * GB, 50 * GB),
        Gpu("l40s", 45 * GIB, 362e12, 864 * GB, _PCIE, _PLAIN_NETWORK),
        Gpu("a40", 45 * GIB, 149.7e12, 696 * GB, _PCIE, _PLAIN_NETWORK),
        Gpu("a6000", 48 * GIB, 154.8e12, 768 * GB, _PCIE, _PLAIN_NETWORK),
        Gpu("a10", 45 * GIB // 2, 125e12, 600 * GB, _PCIE, _PLAIN_NETWORK),
        Gpu("rtx4090", 24 * GIB, 165.2e12, 1008 * GB, _PCIE, _PLAIN_NETWORK),
    )
}


def find_gpu(name: str) -> Gpu:
    """The GPU of this name.

    Raises:
        ConfigError: it is not in the table.
    """
    try:
        return GPUS[name.lower()]
    except KeyError:
        raise ConfigError(f"--gpu is {name!r}; known are {', '.join(GPUS)}") from None


@dataclass(frozen=True)
class Cluster:
    """The machines of a run.

    Attributes:
        gpu: every GPU is of this kind.
        gpus_per_node, nodes: how many.
        node_network: bytes a second and direction that leave a node.
        link_efficiency: the share of the links' bandwidth that collectives are assumed to reach.
    """

    gpu: Gpu
    gpus_per_node: int
    nodes: int
    node_network: float
    link_efficiency: float = 0.7

    @classmethod
    def of(cls, gpu: Gpu, gpus_per_node: int, nodes: int = 1, network_gbit: float | None = None) -> "Cluster":
        """`network_gbit`: Gbit/s of a whole node; None: the table's, times its GPUs.

        Raises:
            ConfigError: a number below 1.
        """
        for name, value in (("--gpus", gpus_per_node), ("--nodes", nodes)):
            if value < 1:
                raise ConfigError(f"{name} is {value}, expected a whole number from 1")
        if network_gbit is not None and network_gbit <= 0:
            raise ConfigError(f"--network-gbit is {network_gbit:g}, expected a number above 0")
        network = gpu.network * gpus_per_node if network_gbit is None else network_gbit * GB / 8
        return cls(gpu, gpus_per_node, nodes, network)

    @property
    def size(self) -> int:
        """GPUs of all nodes."""
        return self.gpus_per_node * self.nodes

    @property
    def bandwidth(self) -> float:
        """Bytes a second and GPU in a ring over all GPUs: the slower of the link inside and the network between nodes.

        NCCL runs as many rings as a node has adapters, so a node's whole network serves each GPU's ring traffic.
        """
        inside = self.gpu.link
        return self.link_efficiency * (inside if self.nodes == 1 else min(inside, self.node_network))
