"""Metadata of the distribution ``safe_rl``, for pip and for colcon (ament_python) alike."""

import re
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "safe_rl/__init__.py").read_text(encoding="utf-8"), re.M)[1]

CORE = [
    "numpy>=2.0",  # what Minari needs
    "torch>=2.4",  # constraints.txt names the version we test; unconstrained, pip takes the newest CUDA build
    "gymnasium>=1.0,<2",  # 1.0 is the first with today's vector interface; a 2.0 may change step() or reset()
    "minari>=0.5,<0.6",  # the on-disk format is not promised across its 0.x releases
    "h5py>=3.10",
    "safetensors>=0.4.3",
    "tyro>=1.0,<2",  # it spells our flags and its error boxes are read by safe_rl.cli.parsing
    "rich>=13",
    "tensorboard>=2.16",
    "matplotlib>=3.8",
    "jinja2>=3.1",
    "imageio-ffmpeg>=0.5",
]

# Headless: the same cv2 as opencv-python without its windows, so a server or a robot needs no libGL. The two
# overwrite each other's files; do not install both.
SIM = ["pybullet>=3.2.5", "opencv-python-headless>=4.8"]

# Ray's Python API has been stable through 2.x; 3.0 may drop what is deprecated today.
RAY = ["ray>=2.9,<3"]

# What reads and writes recordings, with or without ROS: pure Python and small.
BAGS = ["mcap>=1.6", "rosbags>=0.10", "pyyaml>=6"]  # mcap 1.6 is the first whose writer can flush

# For development and CI. A robot takes ROS 2 from its own packages (Humble, Jazzy or Kilted), not from here.
ROS = [
    f"ros-kilted-{package}"
    for package in (
        "rclpy",
        "rmw-fastrtps-cpp",
        "ament-index-python",
        "std-msgs",
        "std-srvs",
        "sensor-msgs",
        "geometry-msgs",
        "nav-msgs",
        "diagnostic-msgs",
        "visualization-msgs",
        "trajectory-msgs",
        "lifecycle-msgs",
        "rcl-interfaces",
    )
] + BAGS

ONNX = ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.1"]

DEV = [
    "pytest>=7.4",
    "pytest-xdist>=3.5",
    "pytest-timeout>=2.2",
    "pytest-rerunfailures>=14",  # for tests over DDS alone, see tests/ros_nodes/conftest.py
    "hypothesis>=6.100",
    "ruff>=0.9",
    "mypy>=1.11",
    "import-linter>=2.0",
]

DOCS = [
    "mkdocs>=1.6,<2",  # Material and mkdocstrings are plugins of 1.x
    "mkdocs-material>=9.5,<10",
    "mkdocstrings[python]>=0.26,<2",
    'pymdown-extensions<12.2; python_version < "3.11"',  # later ones break the last mkdocstrings for Python 3.10
]

BENCH = ["stable-baselines3>=2.3"]  # the peer that the learner's speed is measured beside

setup(
    name="safe_rl",
    version=VERSION,
    description="Recovery RL for robots: learn where constraints would be violated, then train and act outside.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The safe_rl authors",
    maintainer="The safe_rl authors",
    maintainer_email="safe_rl@example.org",  # colcon wants one
    license="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["safe_rl", "safe_rl.*", "sim", "sim.*", "ros_nodes", "ros_nodes.*"]),
    package_data={"safe_rl": ["py.typed"], "safe_rl.report": ["*.html"], "sim": ["assets/**/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/safe_rl"]),
        ("share/safe_rl", ["package.xml"]),
        ("share/safe_rl/launch", sorted(glob("launch/*.launch.py"))),
        ("share/safe_rl/launch/config", sorted(glob("launch/config/*.yaml"))),
    ],
    zip_safe=False,
    install_requires=CORE,
    extras_require={
        "sim": SIM,
        "ray": RAY,
        "bags": BAGS,
        "ros": ROS,
        "onnx": ONNX,
        "bench": BENCH,
        "docs": DOCS,
        "dev": DEV,
    },
    entry_points={
        "console_scripts": [
            "safe-rl = safe_rl.cli.main:main",
            # The names that `ros2 run safe_rl <node>` goes by; setup.cfg says where colcon puts them.
            "shield_node = ros_nodes.shield_node:main",
            "sim_robot_node = ros_nodes.sim_robot_node:main",
            "constraint_monitor_node = ros_nodes.constraint_monitor_node:main",
            "train_on_robot = ros_nodes.train_on_robot:main",
            "recorder_node = ros_nodes.recorder_node:main",
        ],
        # Read by safe_rl.envs.factory; Gymnasium itself stopped reading this group in 1.0.
        "gymnasium.envs": ["__root__ = sim:register_envs"],
        # How the core finds what reads recordings without importing it: see safe_rl.cli.collect.
        "safe_rl.collectors": ["from-bag = ros_nodes.bags.convert"],
    },
)
