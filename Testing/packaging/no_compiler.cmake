# Slicer's build needs the C and C++ compilers that project() looks for; copying Python files does not. This toolchain
# names a program that exists and asks CMake to believe it, so that the packaging test runs where no compiler is.
foreach(language C CXX)
  set(CMAKE_${language}_COMPILER "${CMAKE_COMMAND}")
  set(CMAKE_${language}_COMPILER_FORCED TRUE)
endforeach()
