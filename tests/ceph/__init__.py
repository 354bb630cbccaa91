# SPDX-License-Identifier: GPL-2.0-or-later
"""Volumes that are images of a Ceph cluster."""
