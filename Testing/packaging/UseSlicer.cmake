# What an extension of scripted modules sees of Slicer's own use file: the macros, and BUILD_TESTING switched on.
include(CTest)

# Slicer itself fills missing metadata with defaults; its catalogue then refuses the extension. Refused here at once.
foreach(name HOMEPAGE CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  if("${EXTENSION_${name}}" STREQUAL "")
    message(FATAL_ERROR "EXTENSION_${name} is not set")
  endif()
endforeach()

# Copies the listed files, with the relative paths they are listed under, into the one folder that all modules share
# when the extension is built, and installs that folder. A listed file that does not exist stops the configuration;
# a file that is not listed is left out without a word; of two modules' files of one name, one silently wins.
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(PARSE_ARGV 0 MODULE "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES")
  if(DEFINED MODULE_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "Unknown keywords given to slicerMacroBuildScriptedModule(): ${MODULE_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT DEFINED MODULE_NAME)
    message(FATAL_ERROR "NAME is mandatory")
  endif()

  set(flat_folder "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")
  set(copies "")
  foreach(kind SCRIPTS RESOURCES)
    foreach(file IN LISTS MODULE_${kind})
      if(IS_ABSOLUTE "${file}")
        message(FATAL_ERROR "The stand-in takes relative paths only: ${file}")
      endif()
      if(kind STREQUAL "SCRIPTS" AND NOT file MATCHES "\\.py$")
        string(APPEND file ".py")
      endif()
      set(source "${CMAKE_CURRENT_SOURCE_DIR}/${file}")
      if(NOT EXISTS "${source}")
        message(FATAL_ERROR "slicerMacroBuildScriptedModule(${kind}) given nonexistent file or directory '${file}'")
      endif()
      add_custom_command(
        OUTPUT "${flat_folder}/${file}"
        COMMAND ${CMAKE_COMMAND} -E copy "${source}" "${flat_folder}/${file}"
        DEPENDS "${source}"
        )
      list(APPEND copies "${flat_folder}/${file}")
    endforeach()
  endforeach()
  add_custom_target(Copy${MODULE_NAME} ALL DEPENDS ${copies})
  install(DIRECTORY "${flat_folder}/" DESTINATION "${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}"
    COMPONENT RuntimeLibraries)

  if(BUILD_TESTING AND MODULE_WITH_GENERIC_TESTS)
    slicer_add_python_unittest(SCRIPT qSlicer${MODULE_NAME}ModuleGenericTest.py TESTNAME_PREFIX nomainwindow_)
  endif()
endfunction()

# Names the tests as Slicer does; they cannot run without Slicer.
function(slicer_add_python_unittest)
  cmake_parse_arguments(PARSE_ARGV 0 TEST "" "SCRIPT;TESTNAME_PREFIX" "")
  get_filename_component(name "${TEST_SCRIPT}" NAME_WE)
  add_test(NAME py_${TEST_TESTNAME_PREFIX}${name} COMMAND Slicer --testing --python-code "${name}")
endfunction()
