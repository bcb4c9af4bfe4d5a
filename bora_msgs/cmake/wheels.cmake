# Included by CMAKE_PROJECT_bora_msgs_INCLUDE when ROS 2 comes from Python wheels; never on a machine with a real ROS prefix.
find_package(Python3 REQUIRED COMPONENTS Interpreter Development)
execute_process(
  COMMAND ${Python3_EXECUTABLE} -c "import pathlib, rosidl_cmake; print(pathlib.Path(rosidl_cmake.__file__).parents[4])"
  OUTPUT_VARIABLE wheels_prefix OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
set(ENV{AMENT_PREFIX_PATH} ${wheels_prefix})
list(PREPEND CMAKE_PREFIX_PATH ${wheels_prefix})

# The wheels export include directories of the machine that built them: CMake refuses a target that names one which is absent.
function(bora_drop_absent_includes)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    if(NOT target MATCHES "__rosidl_generator_py$")
      continue()
    endif()
    get_target_property(includes ${target} INTERFACE_INCLUDE_DIRECTORIES)
    set(kept "")
    foreach(include IN LISTS includes)
      if(EXISTS ${include} OR include MATCHES "^\\$<")
        list(APPEND kept ${include})
      endif()
    endforeach()
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${kept}")
  endforeach()
endfunction()
cmake_language(DEFER CALL bora_drop_absent_includes)
