# SPDX-License-Identifier: GPL-2.0-or-later
#
# Usage: cmake -DARCHIVE=FILE -DOUTPUT=FILE -P build_id.cmake
#
# Writes the definition of kBuildId (build_id.h) for what is linked with that archive.
file(SHA256 ${ARCHIVE} id)
file(WRITE ${OUTPUT} "#include \"proxy/build_id.h\"\n\nconst char cloudblk::proxy::kBuildId[] = \"${id}\";\n")
