# What a program needs to use libfaserve: headers, the library, pkg-config and CMake package files.
include(CMakePackageConfigHelpers)

set(headers ${CMAKE_INSTALL_INCLUDEDIR}/faserve)
install(TARGETS faserve EXPORT faserve LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES faserve.h DESTINATION ${headers})
install(FILES ${PROJECT_SOURCE_DIR}/proto/status.h ${PROJECT_SOURCE_DIR}/proto/tensor.h
    DESTINATION ${headers}/proto)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/faserve)
install(EXPORT faserve NAMESPACE faserve:: FILE faserve-config.cmake DESTINATION ${package})
write_basic_package_version_file(faserve-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/faserve-config-version.cmake DESTINATION ${package})

# By where the file is: `cmake --install --prefix` may put it anywhere.
file(RELATIVE_PATH FAS_PREFIX_OF_PC ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" FAS_PREFIX_OF_PC ${FAS_PREFIX_OF_PC})
configure_file(faserve.pc.in faserve.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/faserve.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
