# SPDX-License-Identifier: GPL-2.0-or-later
"""Kills, crashes, takeovers, partitions, full disks: what clients see of them."""
