# An extension that others depend on is found by them through this file.
file(WRITE "${CMAKE_BINARY_DIR}/${PROJECT_NAME}Config.cmake" "set(${PROJECT_NAME}_SOURCE_DIR \"${CMAKE_SOURCE_DIR}\")\n")
