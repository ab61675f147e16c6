# tools/package/package.cmake: what is installed beside programs, library and header, and the Debian
# packages that CPack makes of it all. `tools/package/make` builds them.
#
# Three components, each a package: programs (kvfs), library (libkvfs-kvN), development
# (libkvfs-kv-dev).

# kvfs_link(DIRECTORY LINK TARGET): a symbolic link beside its target, below the prefix.
function(kvfs_link directory link target)
    install(CODE "execute_process(COMMAND \${CMAKE_COMMAND} -E create_symlink ${target}
        \$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${directory}/${link})" COMPONENT programs)
endfunction()

# The mount table says fuse.kvfs; mount(8) looks for a program of that name to remount.
kvfs_link(${CMAKE_INSTALL_SBINDIR} mount.fuse.kvfs mount.kvfs)

# bash and fish look for a file that is named for the command, zsh for what #compdef says.
set(shell_bash ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
set(shell_fish ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
set(shell_zsh ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions)
install(FILES tools/completion/kvfs.bash DESTINATION ${shell_bash} RENAME kvfs COMPONENT programs)
install(FILES tools/completion/kvfs.fish DESTINATION ${shell_fish} COMPONENT programs)
install(FILES tools/completion/kvfs.zsh DESTINATION ${shell_zsh} RENAME _kvfs COMPONENT programs)
foreach(name mkfs.kvfs fsck.kvfs mount.kvfs)
    kvfs_link(${shell_bash} ${name} kvfs)
    kvfs_link(${shell_fish} ${name}.fish kvfs.fish)
endforeach()

# Manual pages, compressed: what man(1) reads and Debian wants. -n: no time of day in them.
find_program(KVFS_GZIP gzip REQUIRED)
file(GLOB KVFS_PAGES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/docs/man/*.[158])
set(KVFS_PACKED_PAGES)
foreach(page ${KVFS_PAGES})
    get_filename_component(name ${page} NAME)
    string(REGEX REPLACE "^.*\\." "" section ${name})
    set(packed ${PROJECT_BINARY_DIR}/man/${name}.gz)
    add_custom_command(OUTPUT ${packed} DEPENDS ${page} VERBATIM
        COMMAND ${CMAKE_COMMAND} -E make_directory ${PROJECT_BINARY_DIR}/man
        COMMAND sh -c "\"$0\" -9nc \"$1\" >\"$2\"" ${KVFS_GZIP} ${page} ${packed})
    list(APPEND KVFS_PACKED_PAGES ${packed})
    install(FILES ${packed} DESTINATION ${CMAKE_INSTALL_MANDIR}/man${section}
        COMPONENT programs)
endforeach()
add_custom_target(kvfs-man ALL DEPENDS ${KVFS_PACKED_PAGES})
kvfs_link(${CMAKE_INSTALL_MANDIR}/man8 mount.fuse.kvfs.8.gz mount.kvfs.8.gz)

# systemd looks in lib/systemd/system of /usr and of /usr/local, and for the program in PATH.
install(FILES tools/package/kvfs@.service DESTINATION lib/systemd/system COMPONENT programs)
install(FILES tools/package/kvfs.env.example DESTINATION ${CMAKE_INSTALL_DOCDIR}/examples
    COMPONENT programs)
install(FILES README.md DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT programs)
install(FILES mount.conf DESTINATION ${CMAKE_INSTALL_DOCDIR}/examples COMPONENT programs)
# The settings that the unit reads belong to the system, not to the prefix, and to the administrator:
# a file that is there stays.
install(CODE "
    if(CMAKE_INSTALL_PREFIX MATCHES \"^(.*)/usr$\")
        set(etc \"\${CMAKE_MATCH_1}/etc/kvfs\")
        if(NOT EXISTS \"\$ENV{DESTDIR}\${etc}/mount.conf\")
            file(INSTALL DESTINATION \"\${etc}\" TYPE FILE FILES
                \"${PROJECT_SOURCE_DIR}/mount.conf\")
        endif()
    endif()" COMPONENT programs)

# What Debian wants of each package; others get the license.
option(KVFS_DEBIAN "Install copyright and changelog as in a Debian package" OFF)
if(NOT KVFS_DEBIAN)
    install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT programs)
endif()
set(KVFS_CHANGELOG ${PROJECT_BINARY_DIR}/changelog.Debian.gz)
if(KVFS_DEBIAN)
    add_custom_command(OUTPUT ${KVFS_CHANGELOG} VERBATIM
        DEPENDS ${PROJECT_SOURCE_DIR}/tools/package/changelog
        COMMAND sh -c "\"$0\" -9nc \"$1\" >\"$2\"" ${KVFS_GZIP}
            ${PROJECT_SOURCE_DIR}/tools/package/changelog ${KVFS_CHANGELOG})
    add_custom_target(kvfs-changelog ALL DEPENDS ${KVFS_CHANGELOG})
endif()

# The packages ----------------------------------------------------------------
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME kvfs)
set(CPACK_PACKAGE_VENDOR kvfs)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CHECKSUM SHA256)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL programs library development)
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE
    GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_DEBIAN_PACKAGE_MAINTAINER "The kvfs developers <kvfs@example.org>" CACHE STRING
    "Who a Debian package names as its maintainer")
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS_POLICY ">=")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "") # the first line of each description
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)

set(library_package libkvfs-kv${PROJECT_VERSION_MAJOR})
set(debian_version ${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE})

set(CPACK_DEBIAN_PROGRAMS_PACKAGE_NAME kvfs)
set(CPACK_DEBIAN_PROGRAMS_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PROGRAMS_PACKAGE_RECOMMENDS fuse3)
set(CPACK_DEBIAN_PROGRAMS_PACKAGE_SUGGESTS prometheus-node-exporter)
set(CPACK_DEBIAN_PROGRAMS_DESCRIPTION "key-value store that is a filesystem
One image file or block device holds an ordered set of keys with values;
mounted, each key is a path and its value the file there. Small files are
packed into the leaves of one B+tree, every byte is checked, and after a
crash the image holds a prefix of the history of operations.
.
This package has the programs: mkfs.kvfs, mount.kvfs, fsck.kvfs and kvfs.")
set(CPACK_DEBIAN_PROGRAMS_PACKAGE_CONTROL_EXTRA
    ${PROJECT_SOURCE_DIR}/tools/package/conffiles
    ${PROJECT_SOURCE_DIR}/tools/package/postinst
    ${PROJECT_SOURCE_DIR}/tools/package/postrm)

set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME ${library_package})
set(CPACK_DEBIAN_LIBRARY_PACKAGE_SECTION libs)
# CPack writes scripts that call ldconfig; who installs another library later needs the trigger.
file(WRITE ${PROJECT_BINARY_DIR}/package/triggers "activate-noawait ldconfig\n")
set(CPACK_DEBIAN_LIBRARY_PACKAGE_CONTROL_EXTRA
    ${PROJECT_BINARY_DIR}/package/triggers)
set(CPACK_DEBIAN_LIBRARY_DESCRIPTION "crash-safe ordered key-value store in one image
An ordered store of keys and values with atomic batches, in one file or block
device: a B+tree with checksums, a redo log and checkpoints.
.
This package has the shared library.")

set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libkvfs-kv-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SHLIBDEPS OFF)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS "${library_package} (= ${debian_version}), \
liblz4-dev, liburing-dev, libxxhash-dev, libzstd-dev")
set(CPACK_DEBIAN_DEVELOPMENT_DESCRIPTION "crash-safe ordered key-value store (development files)
An ordered store of keys and values with atomic batches, in one file or block
device: a B+tree with checksums, a redo log and checkpoints.
.
This package has the header, the static library and the file for pkg-config.")

if(KVFS_DEBIAN)
    foreach(component ${CPACK_COMPONENTS_ALL})
        string(TOUPPER ${component} upper)
        install(FILES ${PROJECT_SOURCE_DIR}/tools/package/copyright ${KVFS_CHANGELOG}
            DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${CPACK_DEBIAN_${upper}_PACKAGE_NAME}
            COMPONENT ${component})
    endforeach()
endif()
include(CPack)
