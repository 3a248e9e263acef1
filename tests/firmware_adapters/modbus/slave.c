/* A Modbus RTU slave made with libmodbus. Usage: slave PORT ADDRESS REGISTER...
 *
 * It says nothing to requests for other addresses, as devices on a shared line must. Its input
 * register 0 counts the requests that it has answered.
 */
#include <errno.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>

static modbus_t *open_line(const char *port, int address)
{
    modbus_t *line = modbus_new_rtu(port, 115200, 'N', 8, 1);

    if (line == NULL || modbus_set_slave(line, address) || modbus_connect(line))
        exit(1);
    return line;
}

int main(int argc, char **argv)
{
    uint8_t request[MODBUS_RTU_MAX_ADU_LENGTH];
    modbus_mapping_t *map;
    modbus_t *line;
    int number;

    if (argc < 4)
        return 2;
    map = modbus_mapping_new(0, 0, argc - 3, 1);
    if (map == NULL)
        return 1;
    for (number = 3; number < argc; number++)
        map->tab_registers[number - 3] = (uint16_t)strtoul(argv[number], NULL, 0);
    line = open_line(argv[1], atoi(argv[2]));
    puts("ready");
    fflush(stdout);
    for (;;) {
        int size = modbus_receive(line, request);
        if (size > 0) {
            modbus_reply(line, request, size, map);
            map->tab_input_registers[0]++;
        } else if (size == 0) {
            /* For another device, whose answer libmodbus now expects. There is none: begin anew. */
            modbus_close(line);
            modbus_free(line);
            line = open_line(argv[1], atoi(argv[2]));
        } else if (errno != EMBBADCRC && errno != ETIMEDOUT) {
            return 0; /* the line is gone */
        }
    }
}
