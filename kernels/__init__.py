"""CUDA C++ text. A module only so that an editable install finds this folder."""
